//! Shell scripts stop at the first failure.

use super::Finding;
use super::file::File;

const STRICT: &str = "set -euo pipefail";

/// Wants the strict mode in every `.sh` file and every file with a shell's `#!` line.
pub(super) fn strict_mode(file: &File) -> Vec<Finding> {
    if !is_shell(file) || file.lines().any(|(_, line)| line.trim() == STRICT) {
        return Vec::new();
    }
    vec![Finding::new(1, format!("a shell script without `{STRICT}`"))]
}

fn is_shell(file: &File) -> bool {
    let first = file.text.lines().next().unwrap_or_default();
    let shebang = first.strip_prefix("#!").unwrap_or_default();
    file.path.ends_with(".sh")
        || shebang.split(['/', ' ']).any(|word| matches!(word, "sh" | "bash" | "dash" | "zsh"))
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn a_lax_script_is_refused() {
        assert_eq!(lines(strict_mode, "scripts/a.sh", "echo a\n"), [1]);
        assert_eq!(lines(strict_mode, ".ci/run", "#!/usr/bin/env bash\nset -e\n"), [1]);
    }

    #[test]
    fn a_strict_script_passes() {
        assert_eq!(lines(strict_mode, "scripts/a.sh", "#!/bin/bash\nset -euo pipefail\n"), [0_usize; 0]);
        assert_eq!(lines(strict_mode, "scripts/a.py", "#!/usr/bin/env python3\n"), [0_usize; 0]);
    }
}
