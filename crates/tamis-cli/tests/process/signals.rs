//! Signals at any moment.
#![cfg(target_os = "linux")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::setup::{Setup, WRITING, message, run, tamis};

/// Moments of every command.
const MOMENTS: u32 = 8;
/// The bit of SIGINT in the masks of `/proc`.
const INTERRUPT: u64 = 1 << 1;

/// Waits until the process listens: before its first line nobody could.
fn listens(child: &mut Child) {
    let status = format!("/proc/{}/status", child.id());
    let caught = || {
        let text = std::fs::read_to_string(&status).ok()?;
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        Some(u64::from_str_radix(mask, 16).ok()? & INTERRUPT != 0)
    };
    while child.try_wait().unwrap().is_none() && caught() == Some(false) {
        std::thread::yield_now();
    }
}

fn interrupt(child: &Child) {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
    killed.unwrap();
}

/// Interrupts `line` at moments spread over its whole time. It stops with code 75, or had finished; what it leaves is
/// gone on with.
fn at_any_moment(line: &str) {
    let setup = Setup::new();
    let begin = Instant::now();
    let whole = run(&setup.line(line, &setup.text("whole")));
    assert_eq!(whole.status.code(), Some(0), "{line}: {}", message(&whole));
    let time = begin.elapsed();
    for moment in 0..MOMENTS {
        let line = setup.line(line, &setup.text(&format!("out{moment}")));
        let mut child = tamis(&line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        listens(&mut child);
        std::thread::sleep(time.mul_f64(f64::from(moment * 7 % MOMENTS) / f64::from(MOMENTS)));
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        let told = message(&output);
        assert!(!told.contains("panicked"), "{told}");
        match output.status.code() {
            Some(0) => {}
            Some(75) => {
                assert!(told.contains("stopped"), "{told}");
                let again = run(&line);
                assert_eq!(again.status.code(), Some(0), "{line:?}: {}", message(&again));
            }
            other => panic!("{line:?}: {other:?}, {:?}: {told}", output.status),
        }
    }
}

#[test]
fn compress_stops() {
    at_any_moment(WRITING[0]);
}

#[test]
fn recover_stops() {
    at_any_moment(WRITING[1]);
    at_any_moment(WRITING[2]);
}

#[test]
fn pretrain_stops() {
    at_any_moment(WRITING[3]);
}

#[test]
fn export_and_merge_stop() {
    at_any_moment(WRITING[4]);
    at_any_moment(WRITING[5]);
}

#[test]
fn commands_that_only_read_stop() {
    at_any_moment("eval @dense --perplexity @train.txt --context 12 --stride 1 --protocol hf");
    at_any_moment("generate @dense --prompt w3 --max-tokens 60");
    at_any_moment("bench @dense -p 20 -n 20 -r 50");
}

/// A second signal does not wait for a safe place.
#[test]
fn a_second_signal_ends_at_once() {
    let setup = Setup::new();
    let line = setup.line(&WRITING[1].replace("--steps 12", "--steps 1000000"), &setup.text("out"));
    let mut child = tamis(&line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    listens(&mut child);
    std::thread::sleep(Duration::from_millis(300));
    interrupt(&child);
    interrupt(&child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(75));
}

/// A conversation without a terminal ends with its signal; the answer at hand is what is stopped.
#[test]
fn a_conversation_stops() {
    let setup = Setup::new();
    let mut command = tamis(&setup.line("chat @dense --max-tokens 50", ""));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    listens(&mut child);
    interrupt(&child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(75));
}
