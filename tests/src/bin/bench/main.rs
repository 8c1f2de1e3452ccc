//! What the switch can do: the rate of each operation in [`forwarding`], of exceptions in [`exceptions`], how long a
//! failover takes in [`failover`], how many frames one costs in [`reroute`], what changes of routes take in [`control`], and how fast routes of a routing daemon get
//! into the tables in [`fpm`].

mod control;
mod exceptions;
mod failover;
mod forwarding;
mod fpm;
mod generator;
mod plot;
mod reroute;
mod rows;
mod scheduled;
mod spread;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mplsxdp_tests::tidy;

/// Measures the forwarding rate of operations, or what a subcommand names.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    section: Option<Section>,
    #[command(flatten)]
    forwarding: forwarding::Arguments,
}

#[derive(Subcommand)]
enum Section {
    /// Measures what changes of routes, large tables and starts take, and how much memory.
    Control(control::Arguments),
    /// Measures how many exceptions the slow path takes.
    Exceptions(exceptions::Arguments),
    /// Measures how long a failover takes, and how long each request holds up the others.
    Failover(failover::Arguments),
    /// Counts the frames that a failed link costs labels whose backups have labels of their own.
    Reroute(reroute::Arguments),
    /// Measures what it costs, and gains, to hand frames to another CPU.
    Spread(spread::Arguments),
    /// Draws a plot of tables that were measured.
    Plot(plot::Arguments),
    /// Measures how fast routes of a routing daemon get into the tables, and how much memory they take.
    Fpm(fpm::Arguments),
}

fn main() -> Result<()> {
    let arguments = CommandLine::parse();
    tidy::on_signals()?;
    match &arguments.section {
        Some(Section::Control(arguments)) => control::run(arguments),
        Some(Section::Exceptions(arguments)) => exceptions::run(arguments),
        Some(Section::Failover(arguments)) => failover::run(arguments),
        Some(Section::Reroute(arguments)) => reroute::run(arguments),
        Some(Section::Spread(arguments)) => spread::run(arguments),
        Some(Section::Plot(arguments)) => plot::run(arguments),
        Some(Section::Fpm(arguments)) => fpm::run(arguments),
        None => forwarding::run(&arguments.forwarding),
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
