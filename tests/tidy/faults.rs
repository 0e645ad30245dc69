//! docs/faults.md names a test for each fault that is promised for: the names must be those of
//! tests.

use std::path::Path;

/// Rows of the table.
const FAULTS: usize = 37;

#[test]
fn every_fault_has_a_test_that_exists_or_says_why_not() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let table = std::fs::read_to_string(path).expect("docs/faults.md");
    let sources: Vec<String> = super::rust().map(|file| file.text).collect();
    let is_test = |name: &str| {
        let head = format!("fn {name}(");
        sources.iter().any(|text| text.contains(&head))
    };
    let mut rows = 0;
    let mut wrong = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Ok(number) = cells[1].parse::<usize>() else { continue };
        rows += 1;
        assert_eq!(number, rows, "rows are numbered in their order");
        let tests = cells[cells.len() - 2];
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if names.is_empty() && !tests.starts_with("absent: ") {
            wrong.push(format!("{number}: neither a test nor \"absent: why\""));
        }
        let unknown = names.into_iter().filter(|name| !is_test(name));
        wrong.extend(unknown.map(|name| format!("{number}: no test is called {name}")));
    }
    assert_eq!(rows, FAULTS, "rows of docs/faults.md");
    super::none("the last column of docs/faults.md", &wrong);
}
