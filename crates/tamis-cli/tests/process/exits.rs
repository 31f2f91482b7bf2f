//! Exit codes: one meaning each, for every command.

use super::setup::{READING, Setup, WRITING, message, run};

/// Asserts the exit code, and that the message names what is wrong and what to do next.
fn refused(line: &[String], code: i32, says: &str) {
    let output = run(line);
    let message = message(&output);
    assert_eq!(output.status.code(), Some(code), "{line:?}: {message}");
    assert!(message.contains("next: ") && message.contains(says), "{line:?}: {says:?} is not in {message}");
}

/// What a command line reads that is a file or a folder, each once.
fn inputs(line: &str) -> Vec<&str> {
    line.split_whitespace().filter(|word| word.starts_with('@')).collect()
}

#[test]
fn an_input_that_is_missing_is_66() {
    let setup = Setup::new();
    for line in WRITING.into_iter().chain(READING) {
        for input in inputs(line) {
            let line = line.replace(input, "@missing");
            refused(&setup.line(&line, &setup.text("out")), 66, &setup.text("missing"));
        }
    }
    assert!(!setup.path("out").exists());
}

#[test]
fn an_input_that_holds_something_else_is_65() {
    let setup = Setup::new();
    std::fs::write(setup.path("garbage"), [0xff, 0, 7].repeat(50)).unwrap();
    for line in WRITING.into_iter().chain(READING) {
        for input in inputs(line) {
            // What must be a folder lacks its files.
            let code = if input == "@adapter" { 66 } else { 65 };
            let line = line.replace(input, "@garbage");
            refused(&setup.line(&line, &setup.text("out")), code, &setup.text("garbage"));
        }
    }
    refused(&setup.line("recipe check @garbage", ""), 78, "garbage");
}

#[test]
fn an_output_that_cannot_be_made_is_73() {
    let setup = Setup::new();
    setup.write("file", "something");
    for line in WRITING {
        for output in
            [setup.text("file"), setup.text("file/out"), setup.text("file/a/b"), "/proc/none".into()]
        {
            if output.starts_with("/proc") && !cfg!(target_os = "linux") {
                continue;
            }
            refused(&setup.line(line, &output), 73, "");
        }
        if line.starts_with("compress") || line.starts_with("recover") {
            let dry = setup.line(line, &setup.text("file/out"));
            refused(&[dry, vec!["--dry-run".into()]].concat(), 73, "file");
        }
    }
    refused(&setup.line("demo --model @dense --output OUT", &setup.text("file/out")), 73, "file");
    refused(&setup.line("demo --output OUT", &setup.text("file")), 73, "file");
    assert_eq!(std::fs::read(setup.path("file")).unwrap(), b"something");
}

#[test]
fn an_output_that_is_an_input_is_2_and_nothing_is_touched() {
    let setup = Setup::new();
    let mut lines: Vec<(&str, &str)> = WRITING
        .into_iter()
        .filter(|line| !line.starts_with("pretrain"))
        .map(|line| (line, inputs(line)[0]))
        .collect();
    lines.push((WRITING[2], "@dense"));
    let teach = "recover @holes -o OUT --method masked --data @train.txt --valid @valid.txt --teacher @dense";
    lines.push((teach, "@dense"));
    for (line, input) in lines {
        let input = setup.text(&input[1..]);
        let name = input.rsplit('/').next().unwrap();
        let before = contents(&input);
        let ways = [
            input.clone(),
            format!("{input}/."),
            format!("{input}/../{name}"),
            setup.text("new/..") + "/" + name,
        ];
        for output in ways {
            let line =
                [setup.line(line, &output), vec!["--overwrite".into(), "--resume".into(), "never".into()]];
            refused(&line.concat(), 2, "-o DIR");
        }
        #[cfg(unix)]
        {
            let link = setup.path("link");
            std::os::unix::fs::symlink(&input, &link).unwrap();
            refused(&setup.line(line, link.to_str().unwrap()), 2, "-o DIR");
            std::fs::remove_file(link).unwrap();
        }
        assert_eq!(contents(&input), before);
    }
    let adapter = setup.text("adapter-copy");
    std::fs::create_dir(&adapter).unwrap();
    for (name, bytes) in contents(super::setup::golden("adapters/llama-gqa").to_str().unwrap()) {
        std::fs::write(setup.path("adapter-copy").join(name), bytes).unwrap();
    }
    refused(&setup.line("merge @dense --adapter @adapter-copy -o OUT", &adapter), 2, "adapter");
    let mut below = setup.line(WRITING[4], &setup.text("holes/small"));
    assert_eq!(run(&below).status.code(), Some(0), "a folder inside the input is another");
    below.push("--overwrite".into());
    assert_eq!(run(&below).status.code(), Some(0));
}

/// Names and bytes of the files of a folder.
fn contents(folder: &str) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
    };
    let mut all: Vec<_> = files.filter(|path| path.is_file()).map(named).collect();
    all.sort();
    all
}

#[test]
fn a_command_line_without_meaning_is_2_and_names_its_help() {
    let setup = Setup::new();
    for line in WRITING.into_iter().chain(READING) {
        let name = line.split_whitespace().next().unwrap();
        refused(&[name.into(), "--nonsense".into()], 2, &format!("next: tamis {name} --help"));
        let wrong = [setup.line(line, &setup.text("out")), vec!["--threads".into(), "0".into()]].concat();
        if !["inspect", "verify"].contains(&name) {
            refused(&wrong, 2, "from 1 to");
        }
    }
    refused(&["recipe".into(), "show".into()], 2, "next: tamis recipe show --help");
    refused(&["nonsense".into()], 2, "next: tamis --help");
    refused(&[], 2, "next: tamis --help");
    assert!(!setup.path("out").exists());
}

/// A result that is larger than its source is told of before.
#[test]
fn growth_is_told_with_the_flag_that_helps() {
    let setup = Setup::new();
    let eight = setup.line("compress @dense -o OUT --recipe rtn4 --embedding 4 -q", &setup.text("packed"));
    assert_eq!(run(&eight).status.code(), Some(0));
    let gguf = super::setup::golden("models/llama-gqa/model.gguf");
    let mut line = setup.line("compress MODEL -o OUT --recipe rtn4 --json --dry-run", &setup.text("out"));
    line[1] = gguf.to_str().unwrap().to_owned();
    let output = run(&line);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let (source, result) = (&told["estimate"]["source"], &told["estimate"]["result"]);
    let grows = result.as_u64().unwrap() > source.as_u64().unwrap();
    assert_eq!(told["warning"].is_string(), grows, "{told}");
    assert_eq!(message(&output).contains("warning: "), grows);
}
