//! Closed and full streams.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::setup::{READING, Setup, WRITING, message, tamis};

/// Commands that need no model.
const PLAIN: [&str; 6] =
    ["--help", "--version", "compress --help", "recipe list", "recipe list --json", "recipe show int4-ortho"];

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A device without room.
#[cfg(target_os = "linux")]
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Every command, as it is and with `--json` where it takes that.
fn all() -> Vec<String> {
    let json = |line: &&str| !line.contains("jsonl");
    let models = WRITING.into_iter().chain(READING).chain(["demo --model @dense"]);
    let with_json = models.clone().filter(json).map(|line| format!("{line} --json"));
    PLAIN.into_iter().chain(models).map(str::to_owned).chain(with_json).collect()
}

/// Runs every command with streams of this kind; `expect` gets the line, its exit code and its message.
fn each(streams: &dyn Fn(&mut Command) -> &mut Command, expect: impl Fn(&str, Option<i32>, &str)) {
    let setup = Setup::new();
    for (index, line) in all().iter().enumerate() {
        let mut command = tamis(&setup.line(line, &setup.text(&format!("out{index}"))));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        streams(&mut command);
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        expect(line, output.status.code(), &message(&output));
    }
}

#[test]
fn a_reader_that_has_left_is_no_failure() {
    each(&|command| command.stdout(closed()), |line, code, message| {
        assert_eq!((code, message.contains("error")), (Some(0), false), "{line}: {message}")
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    each(&|command| command.stdout(full()), |line, code, message| {
        assert_eq!(code, Some(74), "{line}: {message}");
        assert!(message.contains("error: standard output: ") && message.contains("next: "), "{message}");
    });
}

#[test]
fn nobody_needs_to_read_progress() {
    each(&|command| command.stderr(closed()), |line, code, _| assert_eq!(code, Some(0), "{line}"));
}

#[cfg(target_os = "linux")]
#[test]
fn progress_needs_no_room() {
    each(&|command| command.stderr(full()), |line, code, _| assert_eq!(code, Some(0), "{line}"));
    let mut refused = tamis(&["inspect".into(), "/nowhere".into()]);
    assert_eq!(refused.stderr(full()).status().unwrap().code(), Some(66), "a failure keeps its code");
}

#[test]
fn a_conversation_ends_with_its_reader() {
    let setup = Setup::new();
    let chat = setup.line("chat @dense --max-tokens 5", "");
    let talk = |stdout: Stdio, stderr: Stdio| {
        let mut command = tamis(&chat);
        let mut child = command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"w3 w4\nw5\n").unwrap();
        child.wait_with_output().unwrap()
    };
    let whole = talk(Stdio::piped(), Stdio::piped());
    assert_eq!(whole.status.code(), Some(0), "{}", message(&whole));
    assert!(!whole.stdout.is_empty());
    assert_eq!(talk(closed(), Stdio::piped()).status.code(), Some(0));
    assert_eq!(talk(Stdio::piped(), closed()).status.code(), Some(0));
    #[cfg(target_os = "linux")]
    assert_eq!(talk(full(), Stdio::piped()).status.code(), Some(74));
}
