//! `matrix`: every step of an attempt × every fault, on real machines. Needs root.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that reports to whoever runs it"
)]

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use common::error_chain::Chain;
use integration_tests::matrix::{self, Case, Lengths, Options, Row};

/// Goes through every step of an attempt with every fault, on real machines of its own. Exit status 0
/// when each case ended as it must.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// One fault for each step; another number, other faults. Short faults.
    #[arg(long, value_name = "NUMBER", conflicts_with = "page")]
    sample: Option<usize>,
    /// Only cases whose name contains this: `way / step / fault`.
    #[arg(long, value_name = "TEXT", conflicts_with = "page")]
    only: Option<String>,
    /// Go on from what an earlier run printed with `--json`: only through the cases that had a violation
    /// there; what comes out is of both.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sample", "only"])]
    again: Option<PathBuf>,
    /// Name the cases, and do nothing.
    #[arg(long)]
    list: bool,
    /// Machines that go through cases side by side.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=32))]
    lanes: u8,
    /// Write the page of the handbook.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match go(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("matrix: {}", Chain(&*error));
            ExitCode::from(2)
        }
    }
}

fn go(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    let mut cases = args.sample.map_or_else(matrix::whole, matrix::sample);
    if let Some(only) = &args.only {
        cases.retain(|case: &Case| case.to_string().contains(only));
    }
    let earlier: Vec<Row> = match &args.again {
        Some(file) => serde_json::from_slice(&fs::read(file)?)?,
        None => Vec::new(),
    };
    let good = |case: &Case| {
        let mut rows = earlier.iter();
        rows.find(|row| row.case == *case && row.violations.is_empty())
    };
    let all = cases.clone();
    cases.retain(|case| good(case).is_none());
    if args.list {
        for case in &cases {
            println!("{case}");
        }
        return Ok(true);
    }
    let lengths = match args.sample {
        Some(_) => Lengths::SHORT,
        None => Lengths::WHOLE,
    };
    let options = Options {
        lanes: args
            .lanes
            .min(u8::try_from(cases.len().max(1)).unwrap_or(u8::MAX)),
        lengths,
        program: std::env::current_exe()?.with_file_name("fleet"),
    };
    let begin = Instant::now();
    let progress = |row: &Row| eprintln!("{}", line(row));
    let rows = matrix::run(&cases, &options, &progress, &|step| eprintln!("{step}"))?;
    let begun_again = rows.len();
    let mut rows: Vec<Row> = all.iter().filter_map(good).cloned().chain(rows).collect();
    rows.sort_by_key(|row| all.iter().position(|case| *case == row.case));
    let minutes = begin.elapsed().as_secs().div_ceil(60);
    let bad: Vec<&Row> = rows
        .iter()
        .filter(|row| !row.violations.is_empty())
        .collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for row in &bad {
            println!("== {}\n{}", line(row), row.scene);
        }
        println!(
            "{} cases in {minutes} minutes, {} with a violation",
            rows.len(),
            bad.len()
        );
    }
    if let Some(page) = &args.page {
        let again = args.again.as_ref().map(|_| begun_again);
        fs::write(page, matrix::page(&rows, again))?;
    }
    Ok(bad.is_empty())
}

fn line(row: &Row) -> String {
    let Row {
        case,
        verdict,
        reason,
        seconds,
        ..
    } = row;
    let mut line = format!("{case}: {verdict} ({seconds} s) {reason}");
    for violation in &row.violations {
        line += &format!("\n    ! {violation}");
    }
    line
}
