//! The tensors of a Hugging Face folder: one `model.safetensors`, or shards listed in
//! `model.safetensors.index.json`. Knows tensors, not what they mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde::Deserialize;
use tamis_kernels::pack::{DenseF32, DenseHalf, HalfData};

use super::safetensors::{self, Entry};
use super::values::{check_finite, expect_matrix, expect_vector, from_le};
use super::{TensorInfo, TensorSource};
use crate::disk::{DataFile, is_plain_name, read_small};
use crate::error::{Error, Result};
use crate::model::Weight;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Largest index that is read; the index of a 1 T model has about 10 MB.
const INDEX_LIMIT: u64 = 64 << 20;

/// Lazily read tensors of one or more safetensors files.
#[derive(Debug)]
pub struct SafetensorsSource {
    files: Vec<DataFile>,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, (usize, Entry)>,
}

impl SafetensorsSource {
    /// Opens the model files of a folder and checks their headers.
    pub fn open_folder(folder: &Path) -> Result<Self> {
        if folder.join(INDEX).exists() {
            Self::open_shards(folder)
        } else if folder.join(SINGLE).exists() {
            Self::open_files(&[folder.join(SINGLE)])
        } else {
            Err(no_weights(folder))
        }
    }

    /// Opens the given files; a tensor may be in one of them only.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let mut source = Self { files: Vec::new(), tensors: BTreeMap::new(), places: BTreeMap::new() };
        for path in paths {
            source.add(path)?;
        }
        Ok(source)
    }

    fn open_shards(folder: &Path) -> Result<Self> {
        let index = read_index(&folder.join(INDEX))?;
        let mut shards: Vec<&String> = index.values().collect();
        shards.sort();
        shards.dedup();
        let paths: Vec<PathBuf> = shards.iter().map(|name| folder.join(name)).collect();
        let source = Self::open_files(&paths).map_err(|e| e.or_file(folder))?;
        for (tensor, shard) in &index {
            let found = source.places.get(tensor).map(|(file, _)| source.files[*file].path());
            if found != Some(&folder.join(shard)) {
                return Err(Error::bad_data(format!(
                    "the index puts it into {shard}, which does not hold it"
                ))
                .file(folder.join(INDEX))
                .tensor(tensor));
            }
        }
        Ok(source)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = DataFile::open(path).map_err(|e| match e.kind() {
            crate::Kind::Missing => {
                e.next("a shard that the index names is not there: fetch the model again")
            }
            _ => e,
        })?;
        for (name, entry) in read_header(&file)? {
            let info = TensorInfo {
                dtype: entry.dtype.clone(),
                shape: entry.shape.clone(),
                bytes: entry.bytes,
                file: path.to_path_buf(),
            };
            if self.tensors.insert(name.clone(), info).is_some() {
                return Err(Error::bad_data("it is in two shards").file(path).tensor(name));
            }
            self.places.insert(name, (self.files.len(), entry));
        }
        self.files.push(file);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<(&DataFile, &Entry)> {
        let place = self.places.get(name).map(|(file, entry)| (&self.files[*file], entry));
        place.ok_or_else(|| {
            let error = Error::bad_data("the model has no such tensor").tensor(name);
            self.files.first().map_or(error.clone(), |f| error.file(f.path()))
        })
    }
}

/// Reads and checks the header of one file.
pub(crate) fn read_header(file: &DataFile) -> Result<safetensors::Entries> {
    let read = || {
        let first8 = file.read::<u8>(0, 8)?.try_into().expect("eight bytes were read");
        let length = safetensors::header_length(first8, file.len())?;
        safetensors::parse(&file.read::<u8>(8, length)?, file.len())
    };
    read().map_err(|e: Error| e.or_file(file.path()))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Tensor name -> shard name, each shard one plain file name.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    parse_index(&read_small(path, INDEX_LIMIT)?).map_err(|e| e.or_file(path))
}

/// The checks of [`read_index`] on bytes.
pub fn parse_index(json: &[u8]) -> Result<BTreeMap<String, String>> {
    let index: Index = serde_json::from_slice(json)
        .map_err(|e| Error::bad_data(format!("the index is not valid: {e}")).line(e.line() as u64))?;
    if index.weight_map.is_empty() {
        return Err(Error::bad_data("the index lists no tensor"));
    }
    match index.weight_map.iter().find(|(_, shard)| !is_plain_shard(shard)) {
        Some((tensor, shard)) => Err(Error::bad_data(format!("{shard:?} is not a plain .safetensors name"))
            .tensor(tensor)
            .next("a shard lies beside its index; do not use an index that points elsewhere")),
        None => Ok(index.weight_map),
    }
}

fn is_plain_shard(name: &str) -> bool {
    is_plain_name(name) && name.ends_with(".safetensors")
}

fn no_weights(folder: &Path) -> Error {
    let pickle = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"];
    if let Some(name) = pickle.iter().find(|name| folder.join(name).exists()) {
        return super::sniff::pickle_refusal(&folder.join(name));
    }
    Error::missing(format!("no {SINGLE} and no {INDEX}"))
        .file(folder)
        .next("point to a folder with config.json and safetensors weights, or to a GGUF file")
}

fn unsupported(file: &DataFile, name: &str, dtype: &str) -> Error {
    Error::bad_data(format!("type {dtype} is not supported (F32, F16 and BF16 are)"))
        .file(file.path())
        .tensor(name)
        .next("convert the model to BF16 with safetensors")
}

impl TensorSource for SafetensorsSource {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn check(&self, name: &str) -> Result<()> {
        let (file, entry) = self.find(name)?;
        match entry.dtype.as_str() {
            "F32" | "F16" | "BF16" => Ok(()),
            other => Err(unsupported(file, name, other)),
        }
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let (file, entry) = self.find(name)?;
        let (rows, cols) = expect_matrix(name, &entry.shape).map_err(|e| e.file(file.path()))?;
        let n = rows * cols;
        let half = |data| DenseHalf::new(rows, cols, data).map(Weight::Half);
        let weight = match entry.dtype.as_str() {
            "F32" => DenseF32::new(rows, cols, read(file, name, entry, n)?).map(Weight::F32),
            "F16" => half(HalfData::F16(read::<f16>(file, name, entry, n)?)),
            "BF16" => half(HalfData::Bf16(read::<bf16>(file, name, entry, n)?)),
            other => return Err(unsupported(file, name, other)),
        };
        weight.map_err(|e| Error::bad_data(e.to_string()).file(file.path()).tensor(name))
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let (file, entry) = self.find(name)?;
        let n = expect_vector(name, &entry.shape).map_err(|e| e.file(file.path()))?;
        let data = match entry.dtype.as_str() {
            "F32" => read(file, name, entry, n)?,
            "F16" => read::<f16>(file, name, entry, n)?.into_iter().map(f32::from).collect(),
            "BF16" => read::<bf16>(file, name, entry, n)?.into_iter().map(f32::from).collect(),
            other => return Err(unsupported(file, name, other)),
        };
        Ok(data)
    }
}

fn read<T: super::values::Float>(file: &DataFile, name: &str, entry: &Entry, n: usize) -> Result<Vec<T>> {
    let mut data = file.read::<T>(entry.offset, n).map_err(|e| e.tensor(name))?;
    from_le(&mut data);
    check_finite(&data, entry.offset).map_err(|e| e.file(file.path()).tensor(name))?;
    Ok(data)
}

#[cfg(test)]
#[path = "folder_tests.rs"]
pub(crate) mod tests;
