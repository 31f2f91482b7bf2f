//! Nothing that was in the folder before is lost without being asked for.

use super::*;
use crate::error::Kind;

#[test]
fn a_complete_artifact_is_left_alone() {
    let dir = written();
    let before = files(dir.path());
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("--overwrite"), "{error}");
    assert!(files(dir.path()) == before);
}

#[test]
fn another_model_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn another_programs_manifest_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("manifest.json"), "{}").unwrap();
    let options = (Resume::Auto, Existing::Overwrite);
    let error = Writer::create_or_resume(dir.path(), &identity(), options).unwrap_err();
    assert!(error.to_string().contains("not of a tamis artifact"), "{error}");
}

#[test]
fn overwriting_keeps_the_old_one_until_the_end_and_leaves_no_stale_sidecar() {
    let dir = written();
    let before = files(dir.path());
    let options = (Resume::Auto, Existing::Overwrite);
    let mut writer = Writer::create_or_resume(dir.path(), &identity(), options).unwrap();
    let (part, tensors) = model().remove(0);
    writer.put(part, &tensors, receipts(part)).unwrap();
    drop(writer);
    fs::rename(dir.path().join(".partial"), dir.path().with_extension("aside")).unwrap();
    assert!(files(dir.path()) == before);
    fs::rename(dir.path().with_extension("aside"), dir.path().join(".partial")).unwrap();
    let writer = Writer::create_or_resume(dir.path(), &identity(), options).unwrap();
    let mut next = finish();
    next.files = BTreeMap::from([("chat_template.jinja".into(), b"x".to_vec())]);
    writer.finish(next).unwrap();
    let names: Vec<_> = files(dir.path()).into_keys().collect();
    assert_eq!(names, ["chat_template.jinja", "config.json", "manifest.json", "model.safetensors"]);
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in ["../x", "a/b", "model.safetensors", ".hidden", ""] {
        let dir = tempfile::tempdir().unwrap();
        let writer = open(dir.path()).unwrap();
        let mut bad = finish();
        bad.files = BTreeMap::from([(name.into(), vec![])]);
        assert_eq!(writer.finish(bad).unwrap_err().kind(), Kind::Usage, "{name:?}");
    }
}

#[test]
fn the_old_one_is_whole_until_the_new_one_is_put_in_place() {
    let dir = written();
    let before = visible(dir.path());
    let options = (Resume::Auto, Existing::Overwrite);
    let mut writer = Writer::create_or_resume(dir.path(), &identity(), options).unwrap();
    for (part, tensors) in model() {
        writer.put(part, &tensors, receipts(part)).unwrap();
    }
    let staged = writer.stage(Finish { seed: 9, ..finish() }).unwrap();
    assert_eq!(Manifest::read(&staged.path()).unwrap().seed, 9);
    assert!(visible(dir.path()) == before);
    source(dir.path());
    drop(staged);
    assert!(visible(dir.path()) == before, "nobody has put it in place");
    let writer = Writer::create_or_resume(dir.path(), &identity(), options).unwrap();
    let manifest = writer.finish(Finish { seed: 9, ..finish() }).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
    assert_eq!(manifest.seed, 9);
}

/// Name -> bytes of every file that is not hidden.
fn visible(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_file());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[cfg(unix)]
#[test]
fn a_work_folder_that_is_a_link_is_not_followed() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(home.path().join("precious"), "x").unwrap();
    std::os::unix::fs::symlink(home.path(), dir.path().join(".partial")).unwrap();
    for resume in [Resume::Auto, Resume::Never] {
        let error =
            Writer::create_or_resume(dir.path(), &identity(), (resume, Existing::Refuse)).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
    }
    assert_eq!(crate::artifact::discard(dir.path()).unwrap_err().exit_code(), 65);
    assert_eq!(files(home.path()).len(), 1);
}
