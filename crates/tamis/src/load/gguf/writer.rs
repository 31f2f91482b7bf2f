//! Writes small GGUF files for tests.

/// A GGUF file under construction.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) pairs: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) end: usize,
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new(), end: 0 }
    }
    /// Adds a pair of a type number and its bytes.
    pub(crate) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push([&string(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }
    pub(crate) fn text(self, key: &str, text: &str) -> Self {
        self.raw(key, 8, &string(text))
    }
    pub(crate) fn int(self, key: &str, n: u32) -> Self {
        self.raw(key, 4, &n.to_le_bytes())
    }
    pub(crate) fn float(self, key: &str, x: f32) -> Self {
        self.raw(key, 6, &x.to_le_bytes())
    }
    pub(crate) fn flag(self, key: &str, flag: u8) -> Self {
        self.raw(key, 7, &[flag])
    }
    pub(crate) fn array(self, key: &str, kind: u32, count: u64, values: &[u8]) -> Self {
        self.raw(key, 9, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), values].concat())
    }
    pub(crate) fn texts(self, key: &str, texts: &[&str]) -> Self {
        let values: Vec<u8> = texts.iter().flat_map(|t| string(t)).collect();
        self.array(key, 8, texts.len() as u64, &values)
    }
    /// Adds a tensor after the others; `dims` as the format has them, fastest first.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Self {
        let offset = self.end as u64;
        self.tensor_at(name, dims, kind, (data, offset))
    }
    /// Adds a tensor with a stated offset.
    pub(crate) fn tensor_at(mut self, name: &str, dims: &[u64], kind: u32, data: (&[u8], u64)) -> Self {
        let (data, offset) = data;
        let mut info = string(name);
        info.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| info.extend(d.to_le_bytes()));
        info.extend(kind.to_le_bytes());
        info.extend(offset.to_le_bytes());
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(self.alignment), 0);
        self.end += padded.len();
        self.tensors.push((info, padded));
        self
    }
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        self.pairs.iter().for_each(|p| bytes.extend(p));
        self.tensors.iter().for_each(|t| bytes.extend(&t.0));
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        self.tensors.iter().for_each(|t| bytes.extend(&t.1));
        bytes
    }
}
