//! The command where memory is short: it ends with its own exit code and a next step, whatever it was doing.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use assert_cmd::cargo::cargo_bin;

/// Kilobytes of address space: from too little for the program itself, to enough for everything here.
const LADDER: [usize; 12] =
    [50_000, 60_000, 70_000, 80_000, 90_000, 100_000, 130_000, 160_000, 200_000, 300_000, 500_000, 4_000_000];

/// The limits under which the program can be loaded at all.
fn ladder() -> &'static [usize] {
    static FIRST: OnceLock<usize> = OnceLock::new();
    let loads = |limit: &usize| {
        let output = after(&format!("ulimit -v {limit}"), &["recipe", "list"]);
        output.status.success()
    };
    &LADDER[*FIRST.get_or_init(|| LADDER.iter().position(loads).unwrap())..]
}

const PLAN: &str = "[model]\nhidden = 32\nintermediate = 48\nlayers = 2\nheads = 2\nkv-heads = 1\ncontext = 160\n\
                    [data.nano]\nseed = 3\nbytes = 60_000\n[training]\nepochs = 0.05\nbatch = 2\nlr = 1e-2\nwindows = 2\n";

fn asset(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name).to_str().unwrap().to_owned()
}

/// Runs the command after these lines of bash.
fn after(lines: &str, arguments: &[&str]) -> Output {
    let script = format!("{lines}; exec \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(cargo_bin("tamis")).args(arguments);
    command.env_remove("TAMIS_ISA").output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn whole(arguments: &[&str]) {
    let output = after("true", arguments);
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
}

/// Runs a command at every limit; `OUT` among its arguments becomes a folder that is not there yet. It must either do
/// its work or say that there is too little memory.
fn climb(arguments: &[&str]) {
    let mut codes = Vec::new();
    for kilobytes in ladder() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out").to_str().unwrap().to_owned();
        let arguments: Vec<&str> = arguments.iter().map(|a| if *a == "OUT" { &*out } else { a }).collect();
        let output = after(&format!("ulimit -v {kilobytes}"), &arguments);
        let (code, text) = (output.status.code(), told(&output));
        let fine = match code {
            Some(0) => true,
            Some(4) => text.contains("next: "),
            _ => false,
        };
        assert!(fine && !text.contains("panicked"), "{arguments:?} with {kilobytes} kB: {code:?}: {text}");
        codes.extend(code);
        if codes.ends_with(&[0, 0]) {
            break; // more than enough is no better
        }
    }
    assert!(codes.contains(&4) && codes.contains(&0), "{arguments:?}: {codes:?}");
}

const FEW: [&str; 5] = ["--threads", "2", "--quiet", "-o", "OUT"];

#[test]
fn compressing_ends_well() {
    let (model, text) = (asset("nano-model"), asset("calibration.txt"));
    let flags = ["--recipe", "wanda50", "--calibration", &text, "--samples", "4", "--length", "64"];
    climb(&[&["compress", &model][..], &flags, &FEW].concat());
}

#[test]
fn training_ends_well() {
    let (model, text) = (asset("nano-model"), asset("calibration.txt"));
    let texts = ["--data", &text, "--valid", &text, "--length", "64", "--steps", "2", "--windows", "2"];
    for method in ["lora", "full"] {
        climb(&[&["recover", &model, "--method", method][..], &texts, &FEW].concat());
    }
    let folder = tempfile::tempdir().unwrap();
    let holes = folder.path().join("holes").to_str().unwrap().to_owned();
    whole(&[
        "compress",
        &model,
        "--recipe",
        "wanda50",
        "--calibration",
        &text,
        "--samples",
        "4",
        "--length",
        "64",
        "-q",
        "-o",
        &holes,
    ]);
    let taught = ["--teacher", &model, "--data", &text, "--length", "64", "--sequences", "4"];
    climb(&[&["recover", &holes, "--method", "local"][..], &taught, &FEW].concat());
    let plan = folder.path().join("tiny.toml").to_str().unwrap().to_owned();
    std::fs::write(&plan, PLAN).unwrap();
    climb(&[&["pretrain", &plan][..], &FEW].concat());
}

#[test]
fn running_ends_well() {
    let (model, text) = (asset("nano-model"), asset("measure.txt"));
    climb(&["generate", &model, "--prompt", "Tom", "--max-tokens", "4", "--threads", "2"]);
    let eval = ["eval", &model, "--perplexity", &text, "--windows", "2", "--baseline", &model];
    climb(&[&eval[..], &["--threads", "2", "-q"]].concat());
    climb(&["bench", &model, "-p", "16", "-n", "2", "-r", "1", "-t", "2", "-q"]);
}

#[test]
fn writing_a_model_again_ends_well() {
    let (model, text) = (asset("nano-model"), asset("calibration.txt"));
    climb(&[&["export", &model][..], &FEW].concat());
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter").to_str().unwrap().to_owned();
    let texts = ["--data", &text, "--valid", &text, "--length", "64", "--steps", "1", "--windows", "1", "-q"];
    whole(&[&["recover", &model, "--method", "lora", "-o", &adapter][..], &texts].concat());
    climb(&[&["merge", &model, "--adapter", &adapter][..], &FEW].concat());
}

#[test]
fn threads_that_there_is_no_room_for_are_refused() {
    let model = asset("nano-model");
    let output = after(
        "ulimit -v 1000000",
        &["generate", &model, "--prompt", "Tom", "--max-tokens", "1", "--threads", "1000"],
    );
    let text = told(&output);
    assert!(output.status.code() == Some(4) && text.contains("pass --threads"), "{text}");
}

/// A control group for one process, that goes with the value.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        // A group that will not go is not what is tested.
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl Group {
    /// With this limit, where this process may make one: as root, in a file system of groups that can be written.
    fn limited(bytes: u64) -> Option<Self> {
        let mounts = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        mounts.into_iter().find_map(|(mount, limit)| {
            let group = Self(Path::new(mount).join(format!("tamis-test-{}", std::process::id())));
            std::fs::create_dir(&group.0).ok()?;
            group.0.join(limit).exists().then_some(())?;
            std::fs::write(group.0.join(limit), bytes.to_string()).ok().map(|()| group)
        })
    }
}

#[test]
fn a_control_group_with_too_little_memory_is_seen_before_any_work() {
    let Some(group) = Group::limited(48 << 20) else {
        // not eprintln!, which the test runner swallows
        let _ = writeln!(std::io::stderr(), "SKIPPED: no control group can be made here");
        return;
    };
    let (model, text) = (asset("nano-model"), asset("calibration.txt"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").to_str().unwrap().to_owned();
    let join = format!("echo $$ > {}/cgroup.procs", group.0.display());
    let compress = ["compress", &model, "-o", &out, "--recipe", "rtn4"];
    let recover = ["recover", &model, "-o", &out, "--method", "full", "--data", &text, "--valid", &text];
    for arguments in [&compress[..], &recover, &[&compress[..], &["--dry-run"]].concat()] {
        let output = after(&join, arguments);
        let text = told(&output);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {text}");
        for part in ["this process may hold", "memory.", "tamis-test-", "next: use "] {
            assert!(text.contains(part), "{arguments:?}: {text}");
        }
        assert!(!Path::new(&out).exists());
    }
}

/// Whatever is asked for, it is refused before anything is made.
#[test]
fn what_no_machine_can_hold_is_planned_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("huge.toml").to_str().unwrap().to_owned();
    let out = folder.path().join("out").to_str().unwrap().to_owned();
    for (from, to, code, says) in [
        ("hidden = 32", "hidden = 65_536", 4, "next: choose smaller numbers in [model]"),
        ("hidden = 32", "hidden = 1_048_576", 78, "huge.toml:4: model.layers"),
        ("bytes = 60_000", "bytes = 1_099_511_627_776", 4, "or less text"),
        ("bytes = 60_000", "bytes = 1_152_921_504_606_846_976", 78, "huge.toml:10: data.nano.bytes"),
        ("context = 160", "context = 32", 78, "the exam"),
    ] {
        std::fs::write(&plan, PLAN.replace(from, to)).unwrap();
        let output = after("true", &["pretrain", &plan, "-o", &out, "-q"]);
        let text = told(&output);
        assert_eq!(output.status.code(), Some(code), "{to}: {text}");
        assert!(text.contains(says), "{to}: {text}");
        assert!(!Path::new(&out).exists(), "{to}");
    }
    let model = asset("nano-model");
    let output = after(
        "true",
        &["bench", &model, "-p", "0", "-n", "1", "-d", "16777000", "-b", "1048576", "--cache", "f32"],
    );
    assert!(output.status.code() == Some(4), "{}", told(&output));
}
