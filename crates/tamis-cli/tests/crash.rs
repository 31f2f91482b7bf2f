//! Nothing is lost, whatever happens to a command: killed at moments that nobody chose, out of disk, led astray by what
//! lies in its own folders. Every command that writes is run like that on the nano model of this crate.
//!
//! `TAMIS_KILLS=50 cargo test -p tamis-cli --test crash` makes a campaign of 50 kills for every command; `TAMIS_BIN` names
//! another build of the command, `TAMIS_SEED` other moments.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/nano-model");
const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/measure.txt");
/// What differs between two runs that make the same: times.
const TIMES: [&str; 3] = ["metrics.jsonl", "events.out.tfevents", "curve.svg"];

fn command(arguments: &[String]) -> Command {
    let built = std::env::var_os("TAMIS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tamis").into());
    let mut command = Command::new(built);
    command.args(arguments).env_remove("TAMIS_ISA").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[String]) -> Output {
    command(arguments).output().unwrap()
}

fn code(arguments: &[String]) -> (Option<i32>, String) {
    let output = run(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The files of a folder, but for those that tell times; folders and hidden files as empty ones.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    let kept = named.filter(|(name, _)| !TIMES.iter().any(|times| name.starts_with(times)));
    kept.map(|(name, path)| (name, std::fs::read(path).unwrap_or_default())).collect()
}

/// Models to begin with, and a plan of pretraining.
struct Inputs {
    folder: tempfile::TempDir,
}

impl Inputs {
    fn new() -> Self {
        let inputs = Self { folder: tempfile::tempdir().unwrap() };
        let holes = inputs.path("holes");
        let line = format!(
            "compress {MODEL} -o {holes} --recipe wanda50 --calibration {TEXT} --samples 4 --length 64 -q"
        );
        let (ended, message) = code(&words(&line));
        assert_eq!(ended, Some(0), "{message}");
        let plan = "[model]\nhidden = 32\nintermediate = 32\nlayers = 2\nheads = 2\nkv-heads = 1\ncontext = 64\n\
                    [data.files]\ntrain = \"TEXT\"\nvalid = \"TEXT\"\ntokenizer = \"MODEL/tokenizer.json\"\n\
                    [training]\nepochs = 0.5\nbatch = 4\nlr = 1e-3\nwarmup = 1\nwindows = 1\nevery = 5\n";
        let plan = plan.replace("TEXT", TEXT).replace("MODEL", MODEL);
        std::fs::write(inputs.folder.path().join("plan.toml"), plan).unwrap();
        inputs
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Every command that works for a while, without its output folder.
    fn commands(&self) -> Vec<(&'static str, String)> {
        let (holes, plan) = (self.path("holes"), self.path("plan.toml"));
        let train = format!("--data {TEXT} --valid {TEXT} --length 32 --windows 1 --lr 1e-3 -q");
        let few = format!("--calibration {TEXT} --samples 4 --length 64 -q");
        let steps = "--steps 12 --every 3 --batch 2";
        let stages = format!("--stages 0.3,0.5 --calibration {TEXT} --samples 4");
        vec![
            ("compress", format!("compress {MODEL} --recipe int4-ortho {few}")),
            (
                "masked",
                format!("recover {holes} --method masked --teacher {MODEL} {train} {steps} --keep-best 2"),
            ),
            ("lora", format!("recover {MODEL} --method lora --rank 2 {train} {steps}")),
            ("stages", format!("recover {MODEL} --method masked --teacher {MODEL} {train} {steps} {stages}")),
            (
                "local",
                format!(
                    "recover {holes} --method local --teacher {MODEL} --data {TEXT} --length 32 --sequences 8 -q"
                ),
            ),
            ("pretrain", format!("pretrain {plan} -q")),
        ]
    }
}

fn into(line: &str, output: &Path) -> Vec<String> {
    words(&format!("{line} -o {}", output.display()))
}

/// A share of one, another each time.
fn share(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f64 / (1u64 << 24) as f64
}

/// Runs a command and kills it after some time; gives whether it was still at work.
fn kill_after(line: &[String], time: Duration) -> bool {
    let mut child = command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(time);
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// Kills a command until it was at work `kills` times; the same command always ends with the same bytes and leaves
/// nothing else.
fn campaign(name: &str, line: &str, (kills, seed): (usize, &mut u64)) {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let started = Instant::now();
    let (ended, message) = code(&into(line, &whole));
    assert_eq!(ended, Some(0), "{name}: {message}");
    let (time, whole) = (started.elapsed(), files(&whole));
    let mut begun = 0;
    for kill in 0..kills {
        let output = folder.path().join(format!("killed-{kill}"));
        let line = into(line, &output);
        while !kill_after(&line, time.mul_f64(share(seed))) {
            std::fs::remove_dir_all(&output).unwrap();
        }
        begun += usize::from(output.exists());
        let (ended, message) = code(&line);
        // A kill of the last moment finds all done.
        let complete = ended == Some(2) && message.contains("already holds");
        assert!(ended == Some(0) || complete, "{name}, kill {kill}: {ended:?} {message}");
        let found = files(&output);
        let same = found.keys().eq(whole.keys()) && found == whole;
        assert!(same, "{name}, kill {kill}: {:?} and not {:?}", found.keys(), whole.keys());
        std::fs::remove_dir_all(&output).unwrap();
    }
    let seconds = time.as_secs_f64();
    say(&format!("{name}: {kills} kills of {seconds:.1} s, {begun} after the output folder was begun"));
}

#[test]
fn killed_anywhere_every_command_ends_with_the_same_bytes() {
    let inputs = Inputs::new();
    let kills = std::env::var("TAMIS_KILLS").map_or(2, |kills| kills.parse().unwrap());
    let mut seed = std::env::var("TAMIS_SEED").map_or(1, |seed| seed.parse().unwrap());
    for (name, line) in inputs.commands() {
        campaign(name, &line, (kills, &mut seed));
    }
}

/// A file system of its own, of a few MiB; none where this process may not mount one.
struct Disk(PathBuf, #[expect(dead_code, reason = "removed last")] tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let option = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(&path).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(path, folder));
        }
        say("SKIPPED: a small file system cannot be mounted here, so no disk was full");
        None
    }

    /// Leaves this many bytes free.
    fn fill(&self, free: usize) -> PathBuf {
        let ballast = self.0.join("ballast");
        let all = [0u8; 1 << 12];
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&all).is_ok() {}
        let length = file.metadata().unwrap().len() as usize;
        file.set_len(length.saturating_sub(free) as u64).unwrap();
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().unwrap();
    }
}

#[test]
fn a_full_disk_costs_neither_the_old_model_nor_the_new_one() {
    let Some(disk) = Disk::new("40m") else { return };
    let inputs = Inputs::new();
    let (old, ballast) = (disk.0.join("out"), disk.0.join("ballast"));
    let line = |name: &str| inputs.commands().into_iter().find(|(n, _)| *n == name).unwrap().1;
    let again = |line: &str| into(&format!("{line} --overwrite"), &old);
    for (name, before, line) in [
        ("compress", format!("compress {MODEL} --recipe rtn4 -q"), line("compress")),
        ("export", format!("compress {MODEL} --recipe rtn4 -q"), format!("export {MODEL} -q")),
        ("masked", format!("compress {MODEL} --recipe rtn4 -q"), line("masked")),
        ("lora", line("lora"), format!("{} --seed 9", line("lora"))),
    ] {
        let mut full = 0;
        for free in [0, 8 << 10, 64 << 10, 1 << 20, 3 << 20, 5 << 20] {
            let (ended, message) = code(&into(&before, &old));
            assert_eq!(ended, Some(0), "{name}: {message}");
            let whole = files(&old);
            disk.fill(free);
            let (ended, message) = code(&again(&line));
            if ended != Some(0) {
                assert_eq!(ended, Some(74), "{name} with {free} bytes: {message}");
                assert!(message.contains("the disk is full") && message.contains("next:"), "{message}");
                let kept = files(&old);
                assert!(
                    whole.iter().all(|(file, bytes)| kept.get(file) == Some(bytes)),
                    "{name}, {free} bytes"
                );
                full += 1;
            }
            std::fs::remove_file(&ballast).unwrap();
            let (ended, message) = code(&again(&line));
            assert_eq!(ended, Some(0), "{name} after {free} bytes: {message}");
            assert!(files(&old) != whole && !files(&old).keys().any(|name| name.starts_with('.')), "{name}");
            std::fs::remove_dir_all(&old).unwrap();
        }
        assert!(full >= 2, "{name}: the disk was full {full} times only");
    }
}
