//! What is saved and recovered, in a directory of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use super::record::{Head, Record, begin, begin_journal, write_batch};
use super::recovery::{Journal, SNAPSHOT, UNFINISHED, journal_name, read_snapshot, recover};
use super::*;
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::route::line::{self, Family};

const STATIC: Owner = Owner::STATIC;
const KERNEL: Owner = Owner::Of(Source::Kernel);

fn route(text: &str) -> Route {
    line::route(text, Family::Any).unwrap()
}

fn key(text: &str) -> RouteKey {
    line::key(text, Family::Any).unwrap()
}

fn set(owner: Owner, texts: &[&str]) -> Batch {
    let routes = texts.iter().map(|text| (owner, route(text)));
    Part::Settled(Arc::new(routes.collect())).into()
}

fn delete(source: Source, texts: &[&str]) -> Batch {
    let keys = Arc::new(texts.iter().map(|text| key(text)).collect());
    Part::Deleted { source, keys }.into()
}

fn start(boot: &str, follows: &[Source]) -> Start {
    Start {
        boot: boot.to_owned(),
        netns: 7,
        hash_seed: 11,
        follows: follows.to_vec(),
    }
}

fn port(name: &str, mpls: bool) -> Port {
    Port {
        name: name.to_owned(),
        tx_only: false,
        mpls,
        accept_labels: mpls.then(|| "100-199,300".parse().unwrap()),
        cross_connect: (!mpls).then(|| "eth1".to_owned()),
        mpls_mtu: MplsMtu(mpls.then_some(1508)),
        dscp_map: if mpls { "46=5" } else { "default" }.parse().unwrap(),
        tc_map: if mpls { "5=46" } else { "default" }.parse().unwrap(),
        checksum: None,
    }
}

/// A store that was opened on a directory.
struct Opened {
    saved: Saved,
    store: Store,
    requests: UnboundedReceiver<Request>,
}

fn open_with(dir: &Path, start: Start) -> Opened {
    let directory = Directory::read(dir.to_owned()).unwrap();
    let (saved, store, requests) = directory.open(start).unwrap();
    Opened { saved, store, requests }
}

fn open(dir: &Path) -> Opened {
    open_with(dir, start("b", &[Source::Kernel]))
}

impl Opened {
    /// Waits until everything so far is written.
    fn wait(&self) {
        let (done, written) = mpsc::channel();
        self.store.then(move || done.send(()).unwrap());
        written.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    fn save(&self, batch: Batch) {
        self.store.append(batch);
        self.wait();
    }

    /// Ends like a process that is killed: nothing is written any more. The files stay as they are after this.
    fn kill(self) {
        self.wait();
        std::mem::forget(self.store);
    }

    /// Gives the pieces of snapshots until `is_over`.
    fn give_until(&mut self, piece: impl Fn(Option<RouteKey>) -> Piece, is_over: impl Fn(&StoreStatus) -> bool) {
        for _ in 0..6000 {
            if is_over(&self.store.status()) {
                return;
            }
            match self.requests.try_recv() {
                Ok(request) => self.store.give(request, piece(request.after)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        panic!("{:?}", self.store.status());
    }
}

fn recovered(dir: &Path) -> Recovered {
    recover(dir).unwrap().unwrap()
}

fn lines(saved: &Saved, source: Source) -> Vec<String> {
    saved.routes(source).values().map(Route::to_string).collect()
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("a/instance");
    let opened = open(&dir);
    assert_eq!(opened.saved.route_count(), 0);
    opened.save(set(
        STATIC,
        &["100 as to 200 via inet 192.0.2.1 dev eth1", "101 dev lo"],
    ));
    opened.save(set(
        KERNEL,
        &[
            "100 via inet 192.0.2.2",
            "10.0.0.0/8 table main encap mpls 30 via inet 192.0.2.1",
        ],
    ));
    opened.save(delete(Source::Static, &["101"]));
    opened.save(Part::Port(port("eth7", false)).into());
    opened.kill();

    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o777;
    assert_eq!(
        (mode(&dir), mode(&dir.join(SNAPSHOT)), mode(&dir.join("journal.1"))),
        (0o700, 0o600, 0o600)
    );
    let again = open(&dir);
    assert_eq!(
        lines(&again.saved, Source::Static),
        ["100 as to 200 via inet 192.0.2.1 dev eth1"]
    );
    assert_eq!(
        lines(&again.saved, Source::Kernel),
        [
            "100 via inet 192.0.2.2",
            "10.0.0.0/8 encap mpls 30 via inet 192.0.2.1 table main"
        ]
    );
    assert_eq!(again.saved.ports["eth7"], port("eth7", false));
    again.save(delete(Source::Static, &["100"]));
    again.save(Part::NoPort("eth7".into()).into());
    again.store.stop(true);
    let saved = recovered(&dir).saved;
    assert_eq!((saved.route_count(), saved.ports.len()), (2, 0));
    open(&dir).store.stop(false);
    assert!(!dir.exists());
}

#[test]
fn routes_of_the_configuration_are_not_kept_and_replace_others() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path());
    opened.save(set(STATIC, &["100 dev lo", "101 dev lo"]));
    let routes = Arc::new(vec![route("100 via inet 192.0.2.1"), route("102 dev lo")]);
    let owner = Owner::Config;
    opened.save(Part::Routes { owner, routes }.into());
    opened.store.stop(true);
    assert_eq!(lines(&recovered(dir.path()).saved, Source::Static), ["101 dev lo"]);
}

#[test]
fn renamed_interfaces() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path());
    let names = |old: &str, new: &str| Names::from([(old.into(), new.into())]);
    opened.save(set(STATIC, &["100 via inet 192.0.2.1 dev eth1"]));
    opened.save(Part::Port(port("eth1", true)).into());
    opened.save(Part::Renamed(names("eth1", "up")).into());
    // A change that began before is made after.
    let late = Batch {
        renamed: vec![names("eth1", "up")],
        ..set(STATIC, &["101 via inet 192.0.2.1 dev eth1"])
    };
    opened.save(late);
    opened.store.stop(true);
    let saved = recovered(dir.path()).saved;
    assert_eq!(
        lines(&saved, Source::Static),
        ["100 via inet 192.0.2.1 dev up", "101 via inet 192.0.2.1 dev up"]
    );
    assert_eq!(saved.ports.into_values().collect::<Vec<_>>(), [port("up", true)]);
}

/// After a reboot, or in another namespace, sources report anew; what a client has in the name of a source that nobody
/// follows is the client's.
#[test]
fn what_another_kernel_was_told_about_is_not_wanted() {
    for (before, now, kept) in [
        (start("b", &[Source::Kernel]), start("b", &[Source::Kernel]), 3),
        (start("b", &[Source::Kernel]), start("c", &[Source::Kernel]), 2),
        (
            start("b", &[Source::Kernel]),
            Start {
                netns: 8,
                ..start("b", &[Source::Kernel])
            },
            2,
        ),
        (start("b", &[Source::Kernel]), start("b", &[]), 2),
        (start("b", &[]), start("c", &[]), 3),
        (start("b", &[]), start("c", &[Source::Kernel]), 3),
    ] {
        let dir = TempDir::new().unwrap();
        let opened = open_with(dir.path(), before);
        opened.save(set(STATIC, &["100 dev lo"]));
        opened.save(set(KERNEL, &["100 via inet 192.0.2.2"]));
        opened.save(set(Owner::Of(Source::Fpm), &["100 via inet 192.0.2.3"]));
        opened.kill();
        let again = open_with(dir.path(), now.clone());
        assert_eq!(again.saved.route_count(), kept, "{now:?}");
        assert_eq!(again.saved.start, Some(now));
        again.kill();
        // It is written down.
        assert_eq!(recovered(dir.path()).saved.route_count(), kept);
    }
}

/// The routes of a switch, one in each piece.
fn pieces(routes: &[(Owner, Route)]) -> impl Fn(Option<RouteKey>) -> Piece {
    let routes = routes.to_vec();
    move |after| {
        let at = after.map_or(0, |after| {
            1 + routes.iter().position(|(_, route)| route.key() == after).unwrap()
        });
        let last = at + 1 >= routes.len();
        Piece {
            ports: if at == 0 { vec![port("eth9", true)] } else { Vec::new() },
            routes: routes.get(at).cloned().into_iter().collect(),
            after: routes.get(at).map(|(_, route)| route.key()).filter(|_| !last),
        }
    }
}

#[test]
fn a_snapshot_takes_the_place_of_many_journals() {
    let dir = TempDir::new().unwrap();
    for number in 100..108 {
        let opened = open(dir.path());
        opened.save(set(STATIC, &[&format!("{number} dev lo")]));
        opened.kill();
    }
    let routes: Vec<_> = (100..108)
        .map(|number| (STATIC, route(&format!("{number} dev lo"))))
        .collect();
    assert_eq!(lines(&recovered(dir.path()).saved, Source::Static).len(), 8);
    let mut opened = open(dir.path());
    opened.store.ready();
    let before = opened.store.status();
    opened.give_until(pieces(&routes), |status| status.snapshot_bytes != before.snapshot_bytes);
    // This may come while the snapshot is being made or after it.
    opened.save(delete(Source::Static, &["100"]));
    opened.store.stop(true);
    let found = recovered(dir.path());
    assert_eq!(found.journals.len(), 1);
    assert_eq!(lines(&found.saved, Source::Static).len(), 7);
    assert_eq!(found.saved.start, Some(start("b", &[Source::Kernel])));
    assert!(found.saved.ports.contains_key("eth9"));
    assert!(!dir.path().join("journal.1").exists() && !dir.path().join(UNFINISHED).exists());
}

/// Until a snapshot is complete, the journals before it are what counts, and the changes after it are not lost.
#[test]
fn a_snapshot_that_is_not_completed_changes_nothing() {
    let dir = TempDir::new().unwrap();
    for number in 100..108 {
        let opened = open(dir.path());
        opened.save(set(STATIC, &[&format!("{number} dev lo")]));
        opened.kill();
    }
    let mut opened = open(dir.path());
    opened.store.ready();
    let request = opened.requests.blocking_recv().unwrap();
    let piece = Piece {
        after: Some(key("100")),
        ..Piece::default()
    };
    opened.store.give(request, piece);
    opened.save(set(STATIC, &["200 dev lo"]));
    assert!(dir.path().join(UNFINISHED).exists());
    opened.kill();
    assert_eq!(recovered(dir.path()).saved.route_count(), 9);
    let opened = open(dir.path());
    assert_eq!(opened.saved.route_count(), 9);
    assert!(!dir.path().join(UNFINISHED).exists());
    opened.store.stop(true);
}

/// While the directory cannot be used, changes are answered, and then a snapshot has them.
#[test]
fn a_directory_that_is_gone_is_made_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    let mut opened = open(&path);
    opened.store.ready();
    opened.save(set(STATIC, &["100 dev lo"]));
    fs::remove_dir_all(&path).unwrap();
    // A file in its place.
    fs::write(&path, "").unwrap();
    opened.save(set(STATIC, &["101 dev lo"]));
    let piece = |_| panic!("no snapshot can be made");
    opened.give_until(piece, |status| status.failure.is_some());
    opened.save(set(STATIC, &["102 dev lo"]));
    fs::remove_file(&path).unwrap();
    let routes: Vec<_> = (100..103)
        .map(|number| (STATIC, route(&format!("{number} dev lo"))))
        .collect();
    opened.give_until(pieces(&routes), |status| status.failure.is_none());
    opened.save(set(STATIC, &["103 dev lo"]));
    opened.store.stop(true);
    assert_eq!(lines(&recovered(&path).saved, Source::Static).len(), 4);
}

/// What follows a gap is not taken over without the snapshot that closes it.
#[test]
fn changes_after_a_gap_need_a_snapshot() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path());
    opened.save(set(STATIC, &["100 dev lo"]));
    opened.kill();
    let (mut writer, mut buffer) = begin_journal(2, true);
    let batch = set(STATIC, &["101 dev lo"]);
    assert!(write_batch(&batch, (0, 0), &mut writer, &mut buffer, usize::MAX).is_none());
    fs::write(dir.path().join(journal_name(2)), &buffer).unwrap();
    let found = recovered(dir.path());
    assert_eq!(lines(&found.saved, Source::Static), ["100 dev lo"]);
    assert!(found.notes[0].contains("could not be written"), "{:?}", found.notes);
    let opened = open(dir.path());
    opened.save(set(STATIC, &["102 dev lo"]));
    opened.store.stop(true);
    assert_eq!(
        lines(&recovered(dir.path()).saved, Source::Static),
        ["100 dev lo", "102 dev lo"]
    );
}

#[test]
fn a_torn_change_is_left_out_and_cut() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path());
    opened.save(set(STATIC, &["100 dev lo"]));
    opened.save(set(STATIC, &["101 dev lo", "102 dev lo"]));
    opened.kill();
    let path = dir.path().join("journal.1");
    let whole = fs::read(&path).unwrap();
    let zeros = [&whole[..whole.len() - 30], &[0; 4000], b"abc\n"].concat();
    for torn in [&whole[..whole.len() - 1], &whole[..whole.len() - 40], &zeros] {
        fs::write(&path, torn).unwrap();
        let found = recovered(dir.path());
        assert_eq!(lines(&found.saved, Source::Static), ["100 dev lo"]);
        assert!(
            found.notes[0].contains("journal.1 ends within a change, at byte"),
            "{:?}",
            found.notes
        );
    }
    let opened = open(dir.path());
    opened.save(set(STATIC, &["103 dev lo"]));
    opened.kill();
    assert_eq!(
        lines(&recovered(dir.path()).saved, Source::Static),
        ["100 dev lo", "103 dev lo"]
    );
}

#[test]
fn damage_is_reported_with_its_place_and_kept_aside() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path());
    opened.save(set(STATIC, &["100 dev lo"]));
    opened.kill();
    open(dir.path()).kill();
    let (snapshot, first) = (dir.path().join(SNAPSHOT), dir.path().join("journal.1"));
    let good = [&snapshot, &first].map(|path| fs::read(path).unwrap());
    let problem = || {
        recover(dir.path())
            .unwrap_err()
            .to_string()
            .replace(dir.path().to_str().unwrap(), "DIR")
    };
    let restore = || {
        fs::write(&snapshot, &good[0]).unwrap();
        fs::write(&first, &good[1]).unwrap();
    };

    fs::write(
        &first,
        String::from_utf8(good[1].clone()).unwrap().replace("100", "101"),
    )
    .unwrap();
    assert_eq!(
        problem(),
        "DIR/journal.1 is damaged at line 3 (byte 68): its checksum is wrong"
    );
    fs::write(&first, &good[1][..good[1].len() - 1]).unwrap();
    assert!(problem().ends_with(": the file ends before its end"), "{}", problem());
    restore();
    fs::remove_file(&first).unwrap();
    assert_eq!(
        problem(),
        "DIR/journal.1 is damaged: it is missing, and there is one that continues it"
    );
    restore();
    fs::remove_file(&snapshot).unwrap();
    assert_eq!(
        problem(),
        "DIR/snapshot is damaged: it is missing, and there are journals that continue it"
    );
    restore();
    fs::write(&snapshot, &good[1]).unwrap();
    assert_eq!(
        problem(),
        "DIR/snapshot is damaged at line 2 (byte 16): it is not a snapshot"
    );
    fs::write(&snapshot, "mplsxdp-state 2\nwhatever\n").unwrap();
    assert!(matches!(recover(dir.path()), Err(Problem::Newer { version: 2, .. })));
    fs::write(&snapshot, "").unwrap();
    assert_eq!(
        problem(),
        "DIR/snapshot is damaged at line 1 (byte 0): the file ends before its end"
    );

    let kept = Directory::keep_aside(dir.path(), std::time::SystemTime::UNIX_EPOCH).unwrap();
    let kept: Vec<_> = kept
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(
        kept,
        [
            "journal.1.damaged-1970-01-01T000000Z",
            "journal.2.damaged-1970-01-01T000000Z",
            "snapshot.damaged-1970-01-01T000000Z"
        ]
    );
    assert!(recover(dir.path()).unwrap().is_none());
    open(dir.path()).store.stop(false);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let dir = TempDir::new().unwrap();
    let permissions = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(dir.path(), permissions(0o777)).unwrap();
    let error = Directory::read(dir.path().to_owned()).unwrap_err();
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    let error = Directory::discard(dir.path()).unwrap_err();
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    // Saving never begins where another user was faster than this process.
    fs::set_permissions(dir.path(), permissions(0o755)).unwrap();
    let directory = Directory::read(dir.path().join("state")).unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    fs::set_permissions(dir.path().join("state"), permissions(0o777)).unwrap();
    let (_, store, _requests) = directory.open(start("b", &[])).unwrap();
    let failure = store.status().failure.expect("it is not saved");
    assert!(format!("{failure:?}").contains("chmod go-w"), "{failure:?}");
    assert_eq!(fs::read_dir(dir.path().join("state")).unwrap().count(), 0);
    store.stop(false);
}

fn any_route() -> impl Strategy<Value = (Owner, Route)> {
    let owner = prop::sample::select(vec![STATIC, KERNEL, Owner::Of(Source::Fpm)]);
    let text = (16..40u32, 0..5u32).prop_map(|(label, kind)| match kind {
        0 => format!("{label} dev lo"),
        1 => format!("{label} as to 100/101 via inet6 2001:db8::1 dev eth1 backup via inet 192.0.2.9"),
        2 => format!("10.0.0.{label}/32 table 7 encap mpls 30 ttl 9 via inet 192.0.2.1 proto bgp metric 7"),
        3 => format!("{label} nexthop via inet 192.0.2.1 weight 2 nexthop via inet 192.0.2.2 dev é weight 1"),
        _ => format!("10.1.0.{label}/32 pass # more than 16 labels"),
    });
    (owner, text.prop_map(|text| route(&text)))
}

fn any_batch() -> impl Strategy<Value = Batch> {
    prop_oneof![
        4 => prop::collection::vec(any_route(), 1..4).prop_map(|routes| Part::Settled(Arc::new(routes)).into()),
        2 => prop::collection::vec(any_route(), 1..3).prop_map(|routes| {
            let source = routes[0].0.source();
            let keys = Arc::new(routes.into_iter().map(|(_, route)| route.key()).collect());
            Part::Deleted { source, keys }.into()
        }),
        1 => "[a-z]{1,8}".prop_map(|name| Part::Port(port(&name, true)).into()),
        1 => Just(Part::Renamed(Names::from([("eth1".into(), "eth2".into())])).into()),
    ]
}

/// The journal of these changes, and where each begins and the last ends.
fn journal(batches: &[Batch]) -> (Vec<u8>, Vec<usize>) {
    let (mut writer, mut buffer) = begin_journal(1, false);
    let mut ends = vec![buffer.len()];
    for batch in batches {
        assert!(write_batch(batch, (0, 0), &mut writer, &mut buffer, usize::MAX).is_none());
        ends.push(buffer.len());
    }
    (buffer, ends)
}

fn read_journal(data: &[u8], is_last: bool) -> Result<(Option<u64>, Recovered), Problem> {
    let mut recovered = Recovered::default();
    let journal = Journal {
        path: Path::new("journal.1"),
        number: 1,
        continues: false,
        is_last,
    };
    journal.read(data, &mut recovered).map(|size| (size, recovered))
}

fn snapshot(saved: &Saved) -> Vec<u8> {
    let (mut writer, mut buffer) = begin(Head::Snapshot(1));
    let piece = Piece {
        ports: saved.ports.values().cloned().collect(),
        routes: Source::ALL
            .into_iter()
            .flat_map(|source| {
                saved
                    .routes(source)
                    .values()
                    .map(move |route| (Owner::Of(source), route.clone()))
            })
            .collect(),
        after: None,
    };
    let routes = record::write_piece(&piece, &mut writer, &mut buffer);
    Record::End(routes).write(&mut writer, &mut buffer);
    buffer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A journal that is cut anywhere has the whole changes before the cut; one in which any byte is another is refused.
    #[test]
    fn every_cut_and_every_changed_byte_is_found(batches in prop::collection::vec(any_batch(), 1..6), flip in 1..=255u8) {
        let (data, ends) = journal(&batches);
        let mut states = vec![Saved::default()];
        for end in &ends[1..] {
            let (size, read) = read_journal(&data[..*end], true).unwrap();
            prop_assert_eq!(size, Some(*end as u64));
            prop_assert!(read.notes.is_empty());
            states.push(read.saved);
        }
        for cut in 0..data.len() {
            let (size, read) = read_journal(&data[..cut], true).unwrap();
            let whole = ends.iter().rposition(|&end| end <= cut);
            prop_assert_eq!(size, Some(whole.map_or(0, |index| ends[index]) as u64));
            prop_assert_eq!(&read.saved, &states[whole.unwrap_or_default()]);
            prop_assert_eq!(read.notes.is_empty(), whole.is_some_and(|index| ends[index] == cut));
        }
        let mut changed = data.clone();
        for at in 0..data.len() {
            changed[at] ^= flip;
            let read = read_journal(&changed, false);
            prop_assert!(read.is_err(), "byte {at} of {data:?}");
            // The last line may end early: then the change before it is all that is taken, and this is said.
            if let Ok((_, read)) = read_journal(&changed, true) {
                prop_assert!(!read.notes.is_empty());
                prop_assert!(states.contains(&read.saved));
            }
            changed[at] = data[at];
        }

        let last = states.pop().unwrap();
        let data = snapshot(&last);
        let mut saved = Saved::default();
        prop_assert_eq!(read_snapshot(Path::new("s"), &data, &mut saved).unwrap(), 1);
        prop_assert_eq!(&saved, &last);
        let mut changed = data.clone();
        for at in 0..data.len() {
            prop_assert!(read_snapshot(Path::new("s"), &data[..at], &mut Saved::default()).is_err());
            changed[at] ^= flip;
            prop_assert!(read_snapshot(Path::new("s"), &changed, &mut Saved::default()).is_err());
            changed[at] = data[at];
        }
    }

    #[test]
    fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::saved(&data);
    }

    /// Lines that are nearly records.
    #[test]
    fn any_lines(kind in any::<u8>(), lines in prop::collection::vec("(set|delete|port|no-port|start|rename|commit|end|x)( static| fpm| [0-9]{1,3}| \\{.{0,9}\\}| dev lo| \".{0,5}\"){0,3}", 0..6)) {
        let mut data = vec![kind & !1];
        data.extend(lines.join("\n").into_bytes());
        fuzz::saved(&data);
    }
}
