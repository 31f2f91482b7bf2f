//! `cargo xtask deny`: licences, bans and sources of everything that the workspace is built from, by `deny.toml`.
//!
//! Reads what `cargo metadata` says of each target. The file is that of cargo-deny, which does the same and looks
//! for advisories besides, but takes longer to build than everything else that is checked.

mod licence;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The parts of `deny.toml` that are checked here.
struct Rules {
    targets: Vec<String>,
    licences: Vec<String>,
    /// Crate and reason.
    banned: BTreeMap<String, String>,
    registries: Vec<String>,
}

/// Checks all packages of all targets; true when nothing was found.
pub(crate) fn run(root: &Path) -> Result<bool, String> {
    let text = std::fs::read_to_string(root.join("deny.toml")).map_err(|e| format!("deny.toml: {e}"))?;
    let rules = Rules::parse(&text)?;
    let mut packages = BTreeMap::new();
    for target in &rules.targets {
        packages.extend(built_for(root, target)?);
    }
    let findings: Vec<String> = packages.values().flat_map(|package| rules.findings(package)).collect();
    findings.iter().for_each(|finding| println!("deny: {finding}"));
    println!(
        "deny: {} packages, {} targets, {} findings",
        packages.len(),
        rules.targets.len(),
        findings.len()
    );
    Ok(findings.is_empty())
}

/// Packages by id, as `cargo metadata` describes them, of which something is built for `target`.
fn built_for(root: &Path, target: &str) -> Result<BTreeMap<String, Value>, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--locked", "--format-version", "1", "--filter-platform", target];
    let output = Command::new(program).args(arguments).current_dir(root).output();
    let output = output.map_err(|e| format!("cannot start cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let all: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let id = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
    let nodes: Vec<String> = list(&all["resolve"]["nodes"]).iter().map(id).collect();
    let packages = list(&all["packages"]).into_iter().map(|package| (id(&package), package));
    Ok(packages.filter(|(id, _)| nodes.contains(id)).collect())
}

impl Rules {
    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|e| format!("deny.toml: {e}"))?;
        let texts = |section: &str, key: &str| -> Result<Vec<String>, String> {
            let found =
                table.get(section).and_then(|section| section.get(key)).and_then(|list| list.as_array());
            let found = found.ok_or_else(|| format!("deny.toml: no list {section}.{key}"))?;
            Ok(found.iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect())
        };
        let banned = table.get("bans").and_then(|bans| bans.get("deny")).and_then(|list| list.as_array());
        let banned = banned.ok_or("deny.toml: no list bans.deny")?.iter().map(|entry| {
            let text = |key: &str| entry.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            (text("crate"), text("reason"))
        });
        Ok(Self {
            targets: texts("graph", "targets")?,
            licences: texts("licenses", "allow")?,
            banned: banned.collect(),
            registries: texts("sources", "allow-registry")?,
        })
    }

    fn findings(&self, package: &Value) -> Vec<String> {
        let name = package["name"].as_str().unwrap_or_default();
        let mut findings = Vec::new();
        let mut find = |what: String| findings.push(format!("{name} {}: {what}", package["version"]));
        match package["license"].as_str() {
            Some(licence) if licence::allows(licence, &self.licences) => {}
            Some(licence) => find(format!("its licence {licence:?} is not allowed")),
            None => find("names no licence".into()),
        }
        if let Some(reason) = self.banned.get(name) {
            find(format!("is banned: {reason}"));
        }
        match package["source"].as_str() {
            None => {
                wildcards(package).for_each(|crate_name| find(format!("takes any version of {crate_name}")))
            }
            Some(source) => {
                let registry = source.strip_prefix("registry+").or(source.strip_prefix("sparse+"));
                if !registry.is_some_and(|url| self.registries.iter().any(|allowed| allowed == url)) {
                    find(format!("comes from {source}"));
                }
            }
        }
        findings
    }
}

/// Dependencies of one of our own packages without a version; our own crates go by path.
fn wildcards(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    let any = all.iter().filter(|dependency| dependency["req"] == "*" && dependency["path"].is_null());
    any.filter_map(|dependency| dependency["name"].as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r#"
        [graph]
        targets = ["a", "b"]
        [licenses]
        allow = ["MIT"]
        [bans]
        deny = [{ crate = "openssl-sys", reason = "use rustls" }]
        [sources]
        allow-registry = ["https://example.org/index"]
    "#;

    fn found(package: Value) -> String {
        Rules::parse(RULES).unwrap().findings(&package).join("; ")
    }

    #[test]
    fn every_rule_finds_what_it_is_for() {
        let good = json!({
            "name": "a", "version": "1.0.0", "license": "MIT", "source": "registry+https://example.org/index",
        });
        assert_eq!(found(good.clone()), "");
        for (key, value, word) in [
            ("license", json!("GPL-3.0"), "GPL-3.0"),
            ("license", json!(null), "no licence"),
            ("name", json!("openssl-sys"), "use rustls"),
            ("source", json!("git+https://example.org/a"), "comes from git"),
            ("source", json!("registry+https://elsewhere.org/index"), "elsewhere"),
        ] {
            let mut package = good.clone();
            package[key] = value;
            assert!(found(package.clone()).contains(word), "{word}: {}", found(package));
        }
    }

    #[test]
    fn own_crates_go_by_path_and_no_other_without_a_version() {
        let own = |dependency: Value| json!({ "name": "a", "version": "1.0.0", "license": "MIT", "source": null, "dependencies": [dependency] });
        assert_eq!(found(own(json!({ "name": "b", "req": "*", "path": "/b" }))), "");
        assert!(found(own(json!({ "name": "b", "req": "*" }))).contains("any version of b"));
        assert_eq!(found(own(json!({ "name": "b", "req": "^1" }))), "");
    }

    #[test]
    fn the_rules_of_this_repository_are_read() {
        let rules = Rules::parse(include_str!("../../../deny.toml")).unwrap();
        assert!(rules.targets.len() > 1 && rules.banned.contains_key("hf-hub"));
        assert!(licence::allows("(Apache-2.0 OR MIT) AND BSD-3-Clause", &rules.licences));
        assert!(Rules::parse("[graph]\n").is_err());
    }
}
