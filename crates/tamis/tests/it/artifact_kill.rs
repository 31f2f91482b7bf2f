//! A writer that is really killed, again and again, at moments nobody chose: the folder it
//! leaves in the end is byte for byte that of a writer that was left alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use half::f16;
use tamis::artifact::{Existing, Finish, Identity, MANIFEST, Part, Resume, Stored, Writer};
use tamis::model::Weight;
use tamis_kernels::pack::{PackedMatrix, SparseRows};

const FOLDER: &str = "TAMIS_KILL_TEST_FOLDER";
const BLOCKS: usize = 12;

fn block(index: usize) -> Vec<(String, Stored)> {
    let (rows, cols) = (64, 64);
    let codes: Vec<u8> = (0..rows * cols).map(|i| ((i * 7 + index) % 16) as u8).collect();
    let scales = vec![f16::from_f32(0.5 + index as f32); rows * 2];
    let base = PackedMatrix::from_codes((rows, cols), 4, 32, &codes, scales, None).unwrap();
    let starts = (0..=rows as u32).collect();
    let columns = (0..rows as u16).collect();
    let ortho = SparseRows::new((rows, cols), starts, columns, vec![f16::ONE; rows]).unwrap();
    vec![(format!("model.layers.{index}.mlp.up_proj.weight"), Weight::Sieved { base, ortho }.into())]
}

/// Takes over what is there and finishes.
fn write(folder: &Path) {
    let identity = Identity::new("recipe".into(), "model".into(), None);
    let options = (Resume::default(), Existing::default());
    let mut writer = Writer::create_or_resume(folder, &identity, options).unwrap();
    let finished = writer.finished();
    for index in 0..BLOCKS {
        let part = Part::Block(index);
        if !finished.contains(&part) {
            writer.put(part, &block(index), BTreeMap::new()).unwrap();
        }
    }
    writer.finish(Finish::default()).unwrap();
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| (p.file_name().unwrap().into(), fs::read(&p).unwrap())).collect()
}

/// Whether some parts are finished and the artifact is not.
fn is_midway(folder: &Path) -> bool {
    folder.join(".partial/block-00000.json").exists() && !folder.join(MANIFEST).exists()
}

#[test]
#[ignore = "runs in a child process of the test below, which kills it"]
fn child() {
    write(Path::new(&std::env::var_os(FOLDER).unwrap()));
}

fn spawn(folder: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "artifact_kill::child", "--ignored"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_random_points_it_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let started = Instant::now();
    assert!(spawn(whole.path()).wait().unwrap().success());
    let duration = started.elapsed();
    let whole = files(whole.path());

    let (mut seed, mut kills, mut midway) = (1u64, 0, 0);
    for _ in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = (seed >> 40) as f64 / (1u64 << 24) as f64;
            let mut child = spawn(dir.path());
            std::thread::sleep(Duration::from_secs_f64(duration.as_secs_f64() * share));
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            midway += usize::from(is_midway(dir.path()));
        }
        if !dir.path().join(MANIFEST).exists() {
            write(dir.path());
        }
        // A kill after the manifest may leave the work folder; a refused run takes it away.
        let identity = Identity::new("recipe".into(), "model".into(), None);
        let options = (Resume::default(), Existing::default());
        assert!(Writer::create_or_resume(dir.path(), &identity, options).is_err());
        assert!(files(dir.path()) == whole, "after {kills} kills");
    }
    assert!(midway > 0, "no kill fell between two parts: {kills} kills proved nothing");
}
