//! What `--persist` saves: routes and ports that were answered are there after any end of the process, whatever the disk
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{InstalledRoute, ListRoutes, SavedState, Status};
use mplsxdp::control::client::Client;
use mplsxdp::control::{Instance, RUN_DIR};
use mplsxdp::route::line::{self, Family};
use mplsxdp::route::{Route, RouteKey, Source};
use mplsxdp::state::DIR_VARIABLE;
use mplsxdp::state::recovery::{SNAPSHOT, read_snapshot};
use mplsxdp_tests::random::Random;
use mplsxdp_tests::router::program;
use mplsxdp_tests::tidy::{pins, remove_pins};
use mplsxdp_tests::zebra::{Zebra, lsp, swap};
use mplsxdp_tests::{End, Lab, Netns, Router, link, wait};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::test;

const PATIENCE: Duration = Duration::from_secs(30);
/// How often the process is killed.
const KILLS: usize = 6;
const FPM_PORT: u16 = 2620;

pub fn tests() -> Vec<Trial> {
    vec![
        test("state::what_was_answered_survives_kills_at_random_moments", kills),
        test("state::ports_and_settings_of_run_time_come_back", ports),
        test(
            "state::promiscuous_mode_ends_with_what_is_not_cross_connected_any_more",
            promiscuity,
        ),
        test("state::routes_of_a_routing_daemon_stay_until_it_has_sent_all", feed),
        test("state::a_full_disk_stops_neither_changes_nor_saving_later", full_disk),
        test(
            "state::a_directory_that_is_read_only_or_removed_is_used_again",
            unusable,
        ),
        test("state::damaged_and_newer_files_are_reported_and_kept", damaged),
        test("state::after_a_reboot_static_routes_come_back", reboot),
        test("state::unload_removes_what_was_saved", unload),
    ]
}

/// A namespace with two cables, and a directory for what is saved.
struct Place {
    netns: Netns,
    dir: PathBuf,
    has_mount: bool,
    _far: Netns,
    _lab: Lab,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.has_mount {
            let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Place {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (netns, far) = (lab.netns("router")?, lab.netns("far")?);
        for number in 1..=3 {
            let (near, other) = (format!("eth{number}"), format!("far{number}"));
            link(
                End::new(&netns, &near).address(&format!("10.0.{number}.1/24")),
                End::new(&far, &other).address(&format!("10.0.{number}.2/24")),
            )?;
        }
        let dir = std::env::temp_dir().join(format!("{}-state", netns.name()));
        fs::create_dir(&dir)?;
        Ok(Self {
            netns,
            dir,
            has_mount: false,
            _far: far,
            _lab: lab,
        })
    }

    /// On a file system of its own.
    fn mounted(options: &str) -> Result<Self> {
        let mut place = Self::new()?;
        mount(
            Some("tmpfs"),
            &place.dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options),
        )?;
        place.has_mount = true;
        Ok(place)
    }

    fn remount(&self, flags: MsFlags, options: &str) -> Result<()> {
        let remounted = mount(
            None::<&str>,
            &self.dir,
            None::<&str>,
            MsFlags::MS_REMOUNT | flags,
            Some(options),
        );
        remounted.context("cannot remount")
    }

    fn command(&self, options: &str) -> Result<Command> {
        self.command_with(&format!("--iface eth1 --iface eth2 {options}"))
    }

    fn command_with(&self, options: &str) -> Result<Command> {
        let mut command = Command::new(program()?);
        let name = self.netns.name();
        command.args(["load", "-n", name, "--instance", name, "--persist"]);
        command.args(options.split_whitespace());
        command.env(DIR_VARIABLE, &self.dir);
        Ok(command)
    }

    fn load(&self, options: &str) -> Result<Router> {
        Router::start(&self.netns, self.netns.name(), self.command(options)?)
    }

    /// Whether eth2 is in promiscuous mode.
    fn receives_all(&self) -> Result<bool> {
        Ok(self.netns.ip("link show eth2")?.contains("PROMISC"))
    }

    fn wait_receives_all(&self, on: bool) -> Result<()> {
        wait::until(&format!("promiscuous mode: {on}"), PATIENCE, || {
            Ok((self.receives_all()? == on).then_some(()))
        })
    }

    /// The directory of the instance.
    fn files(&self) -> PathBuf {
        self.dir.join(self.netns.name())
    }
}

fn client(instance: &str) -> Result<Client> {
    Ok(Client::connect(&Instance::in_dir(RUN_DIR, instance)?)?)
}

fn route(text: &str) -> Result<Route> {
    Ok(line::route(text, Family::Any)?)
}

/// All routes with their owners, as lines.
fn routes(router: &Router) -> Result<BTreeMap<(String, String), String>> {
    let list = ListRoutes {
        standby: Some(true),
        ..ListRoutes::default()
    };
    let mut found = BTreeMap::new();
    client(router.instance())?.routes(&list, |listed: InstalledRoute| {
        let route = listed.route.check()?;
        found.insert((listed.owner, route.key().to_string()), route.to_string());
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(found)
}

fn expect(router: &Router, expected: &[(&str, &str)]) -> Result<()> {
    let found = routes(router)?;
    let wanted = expected.iter().map(|&(owner, text)| {
        let route = route(text)?;
        Ok(((owner.to_owned(), route.key().to_string()), route.to_string()))
    });
    let wanted: BTreeMap<_, _> = wanted.collect::<Result<_>>()?;
    ensure!(found == wanted, "found {found:?}, wanted {wanted:?}");
    Ok(())
}

fn saved(router: &Router) -> Result<SavedState> {
    let status: Status = router.json("status")?;
    status.state.context("no state")
}

fn wait_for_failure(router: &Router, fails: bool) -> Result<SavedState> {
    wait::until(&format!("saving fails: {fails}"), PATIENCE, || {
        let saved = saved(router)?;
        Ok((saved.failure.is_some() == fails).then_some(saved))
    })
}

/// One change of a client.
#[derive(Clone, Debug)]
enum Change {
    Replace(Vec<Route>),
    Delete(RouteKey),
    /// Everything else of the owner goes.
    Restore(Vec<Route>),
}

/// What a source has.
type Model = BTreeMap<RouteKey, Route>;

impl Change {
    fn any(source: Source, model: &Model, random: &mut Random) -> Result<Self> {
        let some = |random: &mut Random, count: u64| -> Result<Vec<Route>> {
            let labels: BTreeSet<u64> = (0..count).map(|_| 100 + random.below(60)).collect();
            let action = |label, kind| match kind {
                0 => format!("{label} dev lo"),
                1 => format!("10.9.0.{label}/32 encap mpls 100/200 via link 02:00:00:00:00:01 dev eth2"),
                _ => format!("{label} as to {} via link 02:00:00:00:00:02 dev eth1", 1000 + kind),
            };
            labels
                .into_iter()
                .map(|label| route(&action(label, random.below(9))))
                .collect()
        };
        Ok(match random.below(12) {
            0 if source == Source::Static => {
                let count = 1 + random.below(39);
                Self::Restore(some(random, count)?)
            }
            1..=4 if !model.is_empty() => {
                let at = random.below(model.len() as u64) as usize;
                Self::Delete(*model.keys().nth(at).context("no route")?)
            }
            _ => {
                let count = 1 + random.below(5);
                Self::Replace(some(random, count)?)
            }
        })
    }

    fn make(&self, client: &mut Client) -> Result<()> {
        match self {
            Self::Replace(routes) => client.replace_routes(routes).map(drop)?,
            Self::Delete(key) => client.delete_routes(&[(*key).into()]).map(drop)?,
            Self::Restore(routes) => {
                let routes: Vec<_> = routes.iter().map(Into::into).collect();
                let mut transaction = client.begin(true)?;
                transaction.stage(&routes)?;
                transaction.commit(true)?;
            }
        }
        Ok(())
    }

    fn apply(&self, model: &mut Model) {
        match self {
            Self::Replace(routes) => model.extend(routes.iter().map(|route| (route.key(), route.clone()))),
            Self::Delete(key) => drop(model.remove(key)),
            Self::Restore(routes) => {
                model.clear();
                Self::Replace(routes.clone()).apply(model);
            }
        }
    }
}

/// Several clients change routes of their own owners when the process is killed. What each was told is there, as a whole,
/// and nothing else except its last change, as a whole too.
fn kills() -> Result<()> {
    let place = Place::new()?;
    let mut models: BTreeMap<Source, Model> = Source::ALL.map(|source| (source, Model::new())).into();
    let mut random = Random::new(1);
    for round in 0..KILLS {
        let router = place.load("")?;
        let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), Vec::new());
        for (&source, model) in &models {
            let mut client = client(place.netns.name())?;
            client.set_owner(Some(source));
            let (mut model, stop) = (model.clone(), Arc::clone(&stop));
            let mut random = Random::new(2 + (round * Source::ALL.len() + source as usize) as u64);
            clients.push(thread::spawn(move || {
                let mut in_flight = None;
                while !stop.load(Ordering::Relaxed) {
                    let change = Change::any(source, &model, &mut random)?;
                    if change.make(&mut client).is_err() {
                        in_flight = Some(change);
                        break;
                    }
                    change.apply(&mut model);
                }
                Ok::<_, anyhow::Error>((source, model, in_flight))
            }));
        }
        thread::sleep(Duration::from_millis(random.below(700)));
        router.stop(Signal::SIGKILL)?;
        stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        let router = place.load("")?;
        let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for ((owner, key), line) in routes(&router)? {
            found.entry(owner).or_default().insert(key, line);
        }
        let as_lines = |model: &Model| -> BTreeMap<String, String> {
            model
                .values()
                .map(|route| (route.key().to_string(), route.to_string()))
                .collect()
        };
        for client in ended {
            let (source, mut model, in_flight) = client.map_err(|_| anyhow::anyhow!("a client panicked"))??;
            let found = found.remove(source.name()).unwrap_or_default();
            if found != as_lines(&model) {
                let change = in_flight.with_context(|| format!("{source}: {found:?}, not {model:?}"))?;
                change.apply(&mut model);
                ensure!(
                    found == as_lines(&model),
                    "{source}: {found:?}, not {model:?} after {change:?}"
                );
            }
            models.insert(source, model);
        }
        router.stop(Signal::SIGKILL)?;
    }
    ensure!(models.values().all(|model| !model.is_empty()), "{models:?}");
    place.load("")?.run("unload").map(drop)
}

fn ports() -> Result<()> {
    let place = Place::new()?;
    let router = place.load("")?;
    router.run("link add eth3 tx-only")?;
    router.run("link set eth1 mpls off")?;
    router.run("xconnect add eth2 eth3 one-way")?;
    router.run("route add 100 as to 200 via inet 10.0.3.2 dev eth3")?;
    let seed = |router: &Router| -> Result<serde_json::Value> { router.json("config show") };
    let before = seed(&router)?;
    router.stop(Signal::SIGKILL)?;
    ensure!(
        place.receives_all()?,
        "frames for other stations do not go through any more"
    );
    let router = place.load("")?;
    ensure!(seed(&router)? == before, "{}, not {before}", seed(&router)?);
    expect(&router, &[("static", "100 as to 200 via inet 10.0.3.2 dev eth3")])?;
    // A renamed interface keeps its routes.
    place.netns.ip("link set eth3 down")?;
    place.netns.ip("link set eth3 name up3")?;
    place.netns.ip("link set up3 up")?;
    wait::until("the new name", PATIENCE, || {
        let has = routes(&router)?.values().any(|line| line.ends_with("dev up3"));
        Ok(has.then_some(()))
    })?;
    router.stop(Signal::SIGKILL)?;
    // A port that is gone is waited for.
    place.netns.ip("link set up3 down")?;
    place.netns.ip("link set up3 name other")?;
    let router = place.load("")?;
    ensure!(router.said().contains("up3"), "{}", router.said());
    expect(&router, &[("static", "100 as to 200 via inet 10.0.3.2 dev up3")])?;
    let crossed = router.run("xconnect show")?;
    ensure!(crossed == "eth2 -> up3\n", "{crossed}");
    let wrong = router.run("link del up3").err().context("it was taken")?;
    ensure!(
        format!("{wrong:#}").contains("eth2 is cross-connected with up3"),
        "{wrong:#}"
    );
    ensure!(place.receives_all()?, "the next process has ended it");
    router.run("xconnect del eth2")?;
    place.wait_receives_all(false)?;
    router.run("link del up3")?;
    router.run("link set eth1 mpls on")?;
    router.stop(Signal::SIGKILL)?;
    let router = place.load("")?;
    ensure!(
        !seed(&router)?.to_string().contains("eth1\",\"mpls"),
        "{}",
        seed(&router)?
    );
    let status: Status = router.json("status")?;
    ensure!(
        status.ports == Some(vec!["eth1".into(), "eth2".into()]),
        "{:?}",
        status.ports
    );
    router.run("xconnect add eth2 eth1 one-way")?;
    place.wait_receives_all(true)?;
    router.run("unload")?;
    place.wait_receives_all(false)
}

/// The cross-connect leaves the configuration, its port is none any more, or the instance is removed, while no process runs.
fn promiscuity() -> Result<()> {
    let place = Place::new()?;
    let start = |command| Router::start(&place.netns, place.netns.name(), command);
    let crossed = || -> Result<()> {
        let mut command = place.command("--tx-only eth3")?;
        command.args(["--xconnect", "eth2 eth3 one-way"]);
        let router = start(command)?;
        place.wait_receives_all(true)?;
        router.stop(Signal::SIGKILL)?;
        ensure!(place.receives_all()?);
        Ok(())
    };
    for others in [
        "--iface eth1 --iface eth2 --tx-only eth3",
        "--iface eth1 --tx-only eth3",
    ] {
        crossed()?;
        let router = start(place.command_with(others)?)?;
        place.wait_receives_all(false).context(others)?;
        router.run("unload")?;
    }
    crossed()?;
    let unload = Command::new(program()?)
        .args(["--instance", place.netns.name(), "unload", "--force"])
        .env(DIR_VARIABLE, &place.dir)
        .output()?;
    ensure!(unload.status.success(), "{unload:?}");
    ensure!(!place.receives_all()?, "still promiscuous");
    ensure!(pins(place.netns.name()).is_empty());
    Ok(())
}

fn ifindex(netns: &Netns, interface: &str) -> Result<u32> {
    netns.within(|| Ok(nix::net::if_::if_nametoindex(interface)?))
}

fn feed() -> Result<()> {
    let place = Place::new()?;
    let options = "--sync fpm --sync-quiet 300ms";
    let router = place.load(options)?;
    router.run("route add 103 dev lo")?;
    let ifindex = ifindex(&place.netns, "eth2")?;
    let say = |labels: &[u32]| {
        let mut zebra = Zebra::connect(&place.netns, FPM_PORT)?;
        let via: std::net::Ipv4Addr = "10.0.2.2".parse()?;
        zebra.say(
            labels
                .iter()
                .map(|&label| lsp(label, [swap(ifindex, via, &[label + 100])])),
        )?;
        Ok::<_, anyhow::Error>(zebra)
    };
    let labels = |router: &Router| -> Result<Vec<(String, String)>> { Ok(routes(router)?.into_keys().collect()) };
    let wait_for = |router: &Router, wanted: &[(&str, &str)]| {
        wait::until(&format!("{wanted:?}"), PATIENCE, || {
            let found = labels(router)?;
            let is_same = found
                .iter()
                .map(|(owner, key)| (owner.as_str(), key.as_str()))
                .eq(wanted.iter().copied());
            Ok(is_same.then_some(()))
        })
    };
    let all = [("fpm", "100"), ("fpm", "101"), ("fpm", "103"), ("static", "103")];
    let zebra = say(&[100, 101, 103])?;
    wait_for(&router, &all)?;
    router.stop(Signal::SIGKILL)?;
    drop(zebra);
    let router = place.load(options)?;
    let found = labels(&router)?;
    ensure!(found.len() == 4, "{found:?}");
    // An audit knows that the daemon may still report them.
    router.run("sync check --repair")?;
    wait_for(&router, &all)?;
    let zebra = say(&[100, 102])?;
    wait_for(&router, &[("fpm", "100"), ("fpm", "102"), ("static", "103")])?;
    drop(zebra);
    router.stop(Signal::SIGKILL)?;
    // Nobody follows it any more.
    let router = place.load("")?;
    wait_for(&router, &[("static", "103")])?;
    router.run("unload").map(drop)
}

fn full_disk() -> Result<()> {
    let place = Place::mounted("size=128k,mode=700")?;
    let router = place.load("")?;
    router.run("route add 100 dev lo")?;
    // More than fits.
    let many: String = (1000..6000).map(|label| format!("{label} dev lo\n")).collect();
    router.run_with("route restore", &format!("100 dev lo\n{many}"))?;
    let failing = wait_for_failure(&router, true)?;
    let said = router.said();
    ensure!(
        said.contains("are not saved in") && said.contains("Make room there: `df"),
        "{said}"
    );
    ensure!(
        failing.failure.is_some_and(|failure| failure.contains("No space left")),
        "{said}"
    );
    router.run("route add 101 dev lo")?;
    place.remount(MsFlags::empty(), "size=16m")?;
    wait_for_failure(&router, false)?;
    wait::until("the word that they are saved", PATIENCE, || {
        Ok(router.said().contains("are saved in").then_some(()))
    })?;
    router.run("route del 100")?;
    router.stop(Signal::SIGKILL)?;
    let router = place.load("")?;
    let status: Status = router.json("status")?;
    ensure!(status.label_routes == 5001, "{}", status.label_routes);
    ensure!(router.run("route show 101")?.contains("101"));
    router.run("unload").map(drop)
}

fn unusable() -> Result<()> {
    let place = Place::mounted("size=4m,mode=700")?;
    place.remount(MsFlags::MS_RDONLY, "")?;
    let router = place.load("")?;
    let failing = wait_for_failure(&router, true)?;
    ensure!(
        failing
            .failure
            .is_some_and(|failure| failure.contains("Read-only file system")),
        "{}",
        router.said()
    );
    router.run("route add 100 dev lo")?;
    place.remount(MsFlags::empty(), "")?;
    wait_for_failure(&router, false)?;
    fs::remove_dir_all(place.files())?;
    router.run("route add 101 dev lo")?;
    wait::until("a new directory", PATIENCE, || {
        let is_there = place.files().join(SNAPSHOT).exists();
        Ok((is_there && saved(&router)?.failure.is_none()).then_some(()))
    })?;
    router.run("route add 102 dev lo")?;
    router.stop(Signal::SIGKILL)?;
    let router = place.load("")?;
    expect(
        &router,
        &[
            ("static", "100 dev lo"),
            ("static", "101 dev lo"),
            ("static", "102 dev lo"),
        ],
    )?;
    router.run("unload").map(drop)
}

/// The journal with the largest number that has a change.
fn a_journal(files: &Path) -> Result<PathBuf> {
    let mut journals: Vec<PathBuf> = fs::read_dir(files)?.flatten().map(|entry| entry.path()).collect();
    journals.retain(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(" set static ")));
    journals.pop().context("no journal")
}

fn refused(place: &Place, options: &str) -> Result<String> {
    let Err(error) = place.load(options) else {
        anyhow::bail!("it was loaded")
    };
    Ok(format!("{error:#}"))
}

fn damaged() -> Result<()> {
    let place = Place::new()?;
    let router = place.load("")?;
    router.run("route add 100 dev lo")?;
    router.run("route add 101 dev lo")?;
    router.stop(Signal::SIGKILL)?;
    let journal = a_journal(&place.files())?;
    let good = fs::read(&journal)?;
    let text = String::from_utf8(good.clone())?;

    // Torn: the last change is not whole.
    fs::write(&journal, &good[..good.len() - 3])?;
    let router = place.load("")?;
    expect(&router, &[("static", "100 dev lo")])?;
    ensure!(router.said().contains("ends within a change"), "{}", router.said());
    router.stop(Signal::SIGKILL)?;

    // Of a newer version: it is refused until that is wanted.
    let snapshot = place.files().join(SNAPSHOT);
    let whole = fs::read_to_string(&snapshot)?;
    fs::write(&snapshot, whole.replace("mplsxdp-state 1", "mplsxdp-state 2"))?;
    let error = refused(&place, "")?;
    ensure!(
        error.contains("version 2") && error.contains("--discard-state"),
        "{error}"
    );
    fs::write(&snapshot, whole)?;

    // Damaged: while the ports forward, nothing is changed.
    fs::write(&journal, text.replacen("100", "102", 1))?;
    let error = refused(&place, "")?;
    ensure!(
        error.contains("is damaged at line") && error.contains("unload --force"),
        "{error}"
    );
    // Without them, it is kept aside.
    remove_pins(place.netns.name())?;
    let router = place.load("")?;
    let said = router.said();
    ensure!(
        said.contains("is damaged at line") && said.contains("its checksum is wrong"),
        "{said}"
    );
    expect(&router, &[])?;
    let names = fs::read_dir(place.files())?
        .flatten()
        .map(|entry| entry.file_name().into_string());
    let kept = names
        .filter(|name| name.as_ref().is_ok_and(|name| name.contains(".damaged-")))
        .count();
    ensure!(kept >= 3, "{kept} files are kept");
    router.run("route add 103 dev lo")?;
    router.stop(Signal::SIGKILL)?;

    fs::write(&snapshot, "")?;
    let router = place.load("--discard-state")?;
    expect(&router, &[])?;
    router.run("unload").map(drop)
}

fn reboot() -> Result<()> {
    let place = Place::new()?;
    let options = "--sync fpm";
    let router = place.load(options)?;
    router.run("route add 100 dev lo")?;
    let mut zebra = Zebra::connect(&place.netns, FPM_PORT)?;
    let via: std::net::Ipv4Addr = "10.0.2.2".parse()?;
    zebra.say([lsp(101, [swap(ifindex(&place.netns, "eth2")?, via, &[300])])])?;
    wait::until("a route of the daemon", PATIENCE, || {
        Ok((routes(&router)?.len() == 2).then_some(()))
    })?;
    router.stop(Signal::SIGKILL)?;
    drop(zebra);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    for entry in fs::read_dir(place.files())? {
        rewrite(&entry?.path(), boot.trim(), "00000000-0000-4000-8000-000000000000")?;
    }
    let router = place.load(options)?;
    expect(&router, &[("static", "100 dev lo")])?;
    router.run("unload").map(drop)
}

/// Writes a file of saved state again, with another text in its lines.
fn rewrite(path: &Path, from: &str, to: &str) -> Result<()> {
    use mplsxdp::state::text::{Reader, Writer};
    let data = fs::read(path)?;
    let (mut reader, _) = Reader::begin(&data).map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
    let mut buffer = Vec::new();
    let mut writer = Writer::begin(&mut buffer);
    while let Some(line) = reader.next_line().map_err(|fault| anyhow::anyhow!("{fault:?}"))? {
        let line = line.replace(from, to);
        writer.line(&mut buffer, |buffer| buffer.extend_from_slice(line.as_bytes()));
    }
    Ok(fs::write(path, buffer)?)
}

fn unload() -> Result<()> {
    let place = Place::new()?;
    let router = place.load("")?;
    router.run("route add 100 dev lo")?;
    let status = router.stop(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}");
    let data = fs::read(place.files().join(SNAPSHOT))?;
    read_snapshot(Path::new(SNAPSHOT), &data, &mut mplsxdp::state::Saved::default())?;
    let router = place.load("")?;
    expect(&router, &[("static", "100 dev lo")])?;
    router.run("unload")?;
    wait::until("no files", PATIENCE, || Ok((!place.files().exists()).then_some(())))
}
