//! Tables for people, JSON for programs.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{Cell, Table, TableStyle};
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// More columns, where there are more.
    Wide,
    /// One JSON document: a contract that tests hold.
    Json,
}

/// Prints rows under headings.
pub fn table<const N: usize>(headings: &[&str; N], rows: impl Iterator<Item = [String; N]>) {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(headings.map(Cell::new));
    for row in rows {
        table.add_row(row);
    }
    print(&table.to_string());
}

/// Prints one JSON document.
pub fn json<T: Serialize>(value: &T) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A line or more to standard output. A reader that has seen enough (`| head`) is no fault.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
