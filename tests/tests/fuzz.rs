//! Each fuzz target on inputs that were once found (`fuzz/regressions/TARGET/NAME`), and on variations of them: the
//! part of fuzzing that any compiler can do in seconds. `PROPTEST_CASES` makes it longer or shorter.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use mplsxdp::fuzz::{Check, TARGETS};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Variations for each target that reads what others send or write.
const CASES: u32 = 10_000;
/// Those of targets that take longer, and that have other tests with as many inputs.
const LONG: [&str; 3] = ["core", "pcapng", "slow_path"];
const LONG_CASES: u32 = 2000;
/// The same in each run.
const SEED: [u8; 32] = [7; 32];

fn targets() -> Vec<(&'static str, Check)> {
    let own: (&str, Check) = ("pcapng", mplsxdp_tests::fuzz::pcapng);
    TARGETS.iter().copied().chain([own]).collect()
}

fn names() -> BTreeSet<String> {
    targets().iter().map(|(name, _)| (*name).to_owned()).collect()
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(name)
}

fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

fn regressions(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_of(&directory("regressions").join(target)).into_iter();
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_target_has_a_program_and_every_program_and_folder_a_target() {
    let programs: BTreeSet<_> = files_of(&directory("fuzz_targets"))
        .iter()
        .map(|path| stem(path))
        .collect();
    assert_eq!(programs, names(), "fuzz/fuzz_targets");
    let folders: BTreeSet<_> = files_of(&directory("regressions"))
        .iter()
        .map(|path| stem(path))
        .collect();
    assert_eq!(folders, names(), "fuzz/regressions");
    let manifest = fs::read_to_string(directory("Cargo.toml")).unwrap();
    for name in names() {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "fuzz/Cargo.toml has no {name}"
        );
    }
}

#[test]
fn what_was_found_once_is_found_no_more() {
    let mut failed = Vec::new();
    for (name, check) in targets() {
        let files = regressions(name);
        assert!(!files.is_empty(), "no regression file for {name}");
        for (path, data) in files {
            println!("{}", path.display());
            if catch_unwind(|| check(&data)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn variations_of_it_hold_too() {
    for (name, check) in targets() {
        let cases = match env::var_os("PROPTEST_CASES") {
            Some(_) => Config::default().cases,
            None if LONG.contains(&name) => LONG_CASES,
            None => CASES,
        };
        let seeds: Vec<_> = regressions(name).into_iter().map(|(_, data)| data).collect();
        let config = Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
        let result = TestRunner::new_with_rng(config, rng).run(&varied(seeds), |data| {
            check(&data);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}, seed {SEED:?}: {error}"));
        println!("{name}: {cases} variations");
    }
}

#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn varied(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let index = any::<Index>;
    let change = prop_oneof![
        4 => (index(), prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()]).prop_map(|(at, value)| Change::Set(at, value)),
        4 => (index(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (index(), prop::collection::vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (index(), 1_usize..9).prop_map(|(at, length)| Change::Remove(at, length)),
        2 => (index(), 1_usize..40).prop_map(|(at, length)| Change::Repeat(at, length)),
        1 => index().prop_map(Change::Cut),
    ];
    let changes = prop::collection::vec(change, 1..6);
    let changed = (select(seeds), changes).prop_map(|(data, changes)| changes.into_iter().fold(data, change_bytes));
    prop_oneof![20 => changed, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

fn change_bytes(mut data: Vec<u8>, change: Change) -> Vec<u8> {
    let length = data.len();
    let at = |index: Index| index.index(length + 1);
    let end = |begin: usize, count: usize| (begin + count).min(length);
    match change {
        Change::Set(index, value) => {
            if let Some(byte) = data.get_mut(at(index)) {
                *byte = value;
            }
        }
        Change::Flip(index, bit) => {
            if let Some(byte) = data.get_mut(at(index)) {
                *byte ^= 1 << bit;
            }
        }
        Change::Insert(index, bytes) => drop(data.splice(at(index)..at(index), bytes)),
        Change::Remove(index, count) => drop(data.drain(at(index)..end(at(index), count))),
        Change::Repeat(index, count) => {
            let part = data[at(index)..end(at(index), count)].to_vec();
            drop(data.splice(at(index)..at(index), part));
        }
        Change::Cut(index) => data.truncate(at(index)),
    }
    data
}
