//! Plain text and Markdown tables: columns aligned, numbers to the right.

/// A table with a header row.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// As Markdown that also reads well in a terminal.
    pub(crate) fn markdown(&self) -> String {
        let widths = self.widths();
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            text += &line(aligned(row, &widths));
            if index == 0 {
                let rule = |(c, &w): (usize, &usize)| match c {
                    0 => "-".repeat(w),
                    _ => format!("{}:", "-".repeat(w.saturating_sub(1))),
                };
                text += &line(widths.iter().enumerate().map(rule).collect());
            }
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

/// The cells of a row at their widths: the first to the left, the rest to the right.
fn aligned(row: &[String], widths: &[usize]) -> Vec<String> {
    let cell = |(c, (cell, &w)): (usize, (&String, &usize))| {
        if c == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") }
    };
    row.iter().zip(widths).enumerate().map(cell).collect()
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths = self.widths();
        for (index, row) in self.rows.iter().enumerate() {
            writeln!(f, "{}", aligned(row, &widths).join("  ").trim_end())?;
            if index == 0 {
                writeln!(f, "{}", widths.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>().join("  "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_column_left_the_rest_right() {
        let mut table = Table::new(&["name", "ppl"]);
        table.row(vec!["int4".into(), "19.92".into()]);
        assert_eq!(table.to_string(), "name    ppl\n----  -----\nint4  19.92\n");
    }

    #[test]
    fn markdown_rules_say_how_columns_are_aligned() {
        let mut table = Table::new(&["test", "t/s"]);
        table.row(vec!["pp512".into(), "101.50".into()]);
        assert_eq!(table.markdown(), "| test  |    t/s |\n| ----- | -----: |\n| pp512 | 101.50 |\n");
    }
}
