//! The table of situations: each names a test that exists.

use std::{fs, path::Path};

#[test]
fn each_situation_of_the_table_has_its_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    let rows = table.lines().filter(|line| line.contains(".rs)"));
    let mut count = 0;
    for row in rows.filter(|row| row.starts_with('|')) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [.., file, name, ""] = cells[..] else {
            panic!("{row}");
        };
        let path = file
            .split_once("](")
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        let text = fs::read_to_string(folder.join(path.expect(row))).unwrap();
        assert!(text.contains(&format!("async fn {name}()")), "{row}");
        count += 1;
    }
    assert!(count > 20, "{count}");
}
