//! A killed run loses nothing that was finished, and its end is byte for byte that of a
//! run that was never killed.

use super::*;
use crate::error::Kind;

/// Damage that a crash or a bad disk can leave in the work folder.
type Damage = (&'static str, fn(&Path));

fn damages() -> Vec<Damage> {
    fn flip(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    fn halve(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }
    vec![
        ("none", |_| {}),
        ("flipped tensors", |work| flip(&work.join("block-00000.safetensors"))),
        ("half the tensors", |work| halve(&work.join("block-00000.safetensors"))),
        ("no tensors", |work| fs::remove_file(work.join("block-00000.safetensors")).unwrap()),
        ("half the record", |work| halve(&work.join("block-00000.json"))),
        ("no record", |work| fs::remove_file(work.join("block-00000.json")).unwrap()),
        ("temporary files", |work| {
            fs::write(work.join(".block-00001.safetensors.tamis-tmp-1"), "x").unwrap();
            fs::write(work.join("../.model.safetensors.tamis-tmp-1"), "x").unwrap();
        }),
    ]
}

#[test]
fn any_kill_and_any_damage_ends_with_the_same_bytes() {
    let whole = files(written().path());
    for stop in 0..=model().len() {
        for (what, damage) in damages() {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = open(dir.path()).unwrap();
            for (part, tensors) in model().into_iter().take(stop) {
                writer.put(part, &tensors, receipts(part)).unwrap();
            }
            drop(writer);
            let has_block = stop >= 2;
            if has_block || what == "none" || what == "temporary files" {
                damage(&dir.path().join(".partial"));
            }
            let writer = open(dir.path()).unwrap();
            let lost = usize::from(has_block && what != "none" && what != "temporary files");
            assert_eq!(writer.finished().len(), stop - lost, "{what} after {stop} parts");
            complete(writer);
            assert!(files(dir.path()) == whole, "{what} after {stop} parts");
        }
    }
}

/// A kill inside `finish` leaves some final files and the whole work folder.
#[test]
fn a_kill_while_finishing_ends_with_the_same_bytes() {
    let whole = files(written().path());
    for keep in 0..whole.len() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = open(dir.path()).unwrap();
        for (part, tensors) in model() {
            writer.put(part, &tensors, receipts(part)).unwrap();
        }
        drop(writer);
        for (name, bytes) in whole.iter().filter(|(n, _)| *n != "manifest.json").take(keep) {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        complete(open(dir.path()).unwrap());
        assert!(files(dir.path()) == whole, "{keep} files were there");
    }
}

#[test]
fn other_inputs_are_named_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    let (part, tensors) = model().remove(0);
    writer.put(part, &tensors, receipts(part)).unwrap();
    drop(writer);
    let ours = identity();
    let others = [
        ("recipe differs", Identity { recipe: "x".into(), ..ours.clone() }),
        ("model differs", Identity { model: "x".into(), ..ours.clone() }),
        ("calibration differs", Identity { calibration: None, ..ours.clone() }),
        ("version differs", Identity { version: "0".into(), ..ours.clone() }),
        ("recipe and model differ", Identity { recipe: "x".into(), model: "x".into(), ..ours }),
    ];
    for (message, other) in others {
        let error = Writer::create_or_resume(dir.path(), &other, (Resume::Auto, Existing::Refuse));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("--resume never"), "{error}");
    }
    assert_eq!(open(dir.path()).unwrap().finished().len(), 1);
}

#[test]
fn never_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    let (part, tensors) = model().remove(0);
    writer.put(part, &tensors, receipts(part)).unwrap();
    drop(writer);
    let other = Identity { recipe: "x".into(), ..identity() };
    let writer = Writer::create_or_resume(dir.path(), &other, (Resume::Never, Existing::Refuse)).unwrap();
    assert!(writer.finished().is_empty());
}

#[test]
fn a_second_writer_fails_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(first);
    open(dir.path()).unwrap();
}

#[test]
fn an_unfinished_folder_does_not_read_as_an_artifact() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    assert!(crate::artifact::is_artifact(dir.path()));
    let error = ArtifactSource::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("not finished"), "{error}");
}

#[test]
fn a_missing_block_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    let (_, tensors) = model().remove(1);
    writer.put(Part::Block(1), &tensors, BTreeMap::new()).unwrap();
    let error = writer.finish(finish()).unwrap_err();
    assert!(error.to_string().contains("block-00000 was never stored"), "{error}");
}

/// Whoever wrote record and tensors of a part can have left some out.
#[test]
fn a_part_without_all_of_its_tensors_is_made_again() {
    let whole = files(written().path());
    let dir = tempfile::tempdir().unwrap();
    let names = |part: Part| {
        let all = model().into_iter().find(|(p, _)| *p == part);
        all.into_iter().flat_map(|(_, tensors)| tensors).map(|(name, _)| name).collect()
    };
    let mut writer = open(dir.path()).unwrap();
    let (part, mut tensors) = model().remove(1);
    tensors.pop();
    writer.put(part, &tensors, receipts(part)).unwrap();
    writer.put(Part::Block(9), &tensors, receipts(part)).unwrap();
    drop(writer);
    let mut writer = open(dir.path()).unwrap();
    assert_eq!(writer.finished().len(), 2);
    writer.retain(&names);
    assert!(writer.finished().is_empty());
    complete(writer);
    assert!(files(dir.path()) == whole);

    // A record that was cut to less than the file holds is not one of this file.
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path()).unwrap();
    let (part, tensors) = model().remove(1);
    writer.put(part, &tensors, receipts(part)).unwrap();
    drop(writer);
    let path = dir.path().join(".partial/block-00000.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["tensors"].as_array_mut().unwrap().pop();
    fs::write(&path, record.to_string()).unwrap();
    assert!(open(dir.path()).unwrap().finished().is_empty());
}
