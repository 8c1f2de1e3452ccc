//! Whether the kernel accepts what `dev lo` routes leave to it: packets from a port that are for other machines. The
//! kernel's own settings decide (`ip_forward`, `rp_filter`); if they make it drop such packets, nothing else reports
//! it.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Switch, TABLE_LOCAL};
use crate::dataplane::Tables;
use crate::kernel::sysctl;
use crate::neighbour::links::Links;
use crate::neighbour::{LinkInfo, RouteKind};
use crate::ports::Role;
use crate::route::{Fec, RoutingTable};

/// How many prefixes are examined to find one that the kernel has no route to.
const EXAMINED: usize = 1000;
const ALL_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0));
const ALL_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0));

/// What decides, besides the settings, whether the kernel accepts packets.
#[derive(Default, Debug)]
pub struct Situation {
    /// The interfaces on which the kernel receives what arrives at ports with labels.
    devices: Vec<Device>,
    /// Families of which this machine has addresses or routes.
    v4: bool,
    v6: bool,
    /// The beginning of a command that runs in the instance's network namespace.
    prefix: String,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Device {
    name: String,
    /// IPv4 sources that the kernel may have no route to, in the VRF of the interface.
    unknown_sources: Option<UnknownSources>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum UnknownSources {
    /// There is no default route.
    Any,
    /// An LSP leads there, so packets may come from there.
    Known(IpNet),
}

impl<T: Tables> Switch<T> {
    /// What decides whether the kernel accepts the packets that routes leave to it.
    pub(super) fn situation(&self) -> Situation {
        let links = self.resolver.links();
        let accepting = self
            .ports
            .iter()
            .filter(|port| port.role() == Role::Switching && port.mpls());
        let mut by_table: BTreeMap<Option<u32>, Option<UnknownSources>> = BTreeMap::new();
        let mut devices: Vec<Device> = accepting
            .filter_map(|port| links.get(self.ports.addressed(port.number())?))
            .map(|link| {
                let table = links.vrf(link.ifindex).map(|vrf| vrf.table);
                let unknown_sources = by_table.entry(table).or_insert_with(|| self.unknown_sources(table));
                Device {
                    name: uppermost(link, links).name.to_string(),
                    unknown_sources: *unknown_sources,
                }
            })
            .collect();
        devices.sort();
        devices.dedup();
        Situation {
            devices,
            v4: self.kernel_routes.has_family_of(ALL_V4),
            v6: self.kernel_routes.has_family_of(ALL_V6),
            prefix: match &self.config.netns {
                None => String::new(),
                Some(path) if path.contains('/') => format!("nsenter --net={path} "),
                Some(name) => format!("ip netns exec {name} "),
            },
        }
    }

    /// In the VRF with this table, or outside of VRFs.
    fn unknown_sources(&self, vrf_table: Option<u32>) -> Option<UnknownSources> {
        let links = self.resolver.links();
        let is_asked = |table| match vrf_table {
            Some(vrf_table) => table == vrf_table,
            None => !links.is_vrf_table(table),
        };
        let mut default = self.kernel_routes.get(ALL_V4).filter(|route| is_asked(route.table));
        if default.any(|route| route.kind == RouteKind::Unicast && route.table != TABLE_LOCAL) {
            return None;
        }
        let own_table = vrf_table.map_or(RoutingTable::MAIN, RoutingTable);
        let counts = |fec: &Fec| fec.table.is_none_or(|table| table == own_table);
        let far = self.lfib.fecs_within(ALL_V4).take(EXAMINED).filter(counts);
        let mut far = far.map(|fec| fec.prefix).peekable();
        if far.peek().is_none() {
            return Some(UnknownSources::Any);
        }
        far.find(|prefix| !self.kernel_routes.has_specific(prefix.addr(), is_asked))
            .map(UnknownSources::Known)
    }
}

/// The interface on which the kernel receives packets of a port: the port's master, such as a bridge, and that one's
/// master, such as a VRF.
fn uppermost<'a>(mut link: &'a LinkInfo, links: &'a Links) -> &'a LinkInfo {
    while let Some(master) = link.master.as_ref().and_then(|master| links.get(master.ifindex)) {
        link = master;
    }
    link
}

impl Situation {
    /// What keeps packets from getting through, with the commands that help. `read` returns a setting by its path
    /// beneath `/proc/sys/net`.
    pub fn warnings(&self, read: impl Fn(&str) -> Option<u32>) -> Vec<String> {
        let checks = [self.forwarding_v4(&read), self.forwarding_v6(&read)];
        let mut by_sources: BTreeMap<Option<UnknownSources>, Vec<&str>> = BTreeMap::new();
        for Device { name, unknown_sources } in &self.devices {
            by_sources.entry(*unknown_sources).or_default().push(name);
        }
        let mut warnings: Vec<String> = checks.into_iter().flatten().collect();
        let mut all_is_cleared = false;
        // Unknown sources first: their command also changes the setting of all interfaces.
        for (unknown_sources, devices) in by_sources.into_iter().rev() {
            let warning = self.reverse_path(&devices, unknown_sources, all_is_cleared, &read);
            all_is_cleared |= warning.is_some();
            warnings.extend(warning);
        }
        warnings
    }

    /// The kernel checks the setting of the receiving interface. The machine's setting is only copied to all interfaces
    /// when it is written.
    fn forwarding_v4(&self, read: impl Fn(&str) -> Option<u32>) -> Option<String> {
        if !self.v4 && self.v6 {
            return None;
        }
        let key = |device: &str| format!("ipv4/conf/{device}/forwarding");
        let is_off = |device: &&str| read(&key(device)) == Some(0);
        let devices = self.devices.iter().map(|device| device.name.as_str());
        let off: Vec<&str> = devices.filter(is_off).collect();
        let all_are = off.len() == self.devices.len();
        let keys = match read("ipv4/ip_forward") {
            Some(0) if all_are => vec!["ipv4/ip_forward".to_owned()],
            _ => off.into_iter().map(key).collect(),
        };
        self.not_forwarded("IPv4", &keys)
    }

    /// The kernel checks the machine's setting, and since Linux 6.17 also the interface's.
    fn forwarding_v6(&self, read: impl Fn(&str) -> Option<u32>) -> Option<String> {
        let forces = |device: &Device| read(&format!("ipv6/conf/{}/force_forwarding", device.name)) == Some(1);
        let all = "ipv6/conf/all/forwarding".to_owned();
        let is_off = read(&all) == Some(0) && (self.devices.is_empty() || !self.devices.iter().all(forces));
        if self.v6 && is_off {
            self.not_forwarded("IPv6", &[all])
        } else {
            None
        }
    }

    fn not_forwarded(&self, family: &str, keys: &[String]) -> Option<String> {
        let names: Vec<String> = keys.iter().map(|key| sysctl::name(key)).collect();
        let is = if names.len() == 1 { "is" } else { "are" };
        (!names.is_empty()).then(|| {
            format!(
                "the kernel drops {family} packets from `dev lo` routes that are not for this machine, because {} {is} 0: {}",
                names.join(", "),
                self.command(keys, 1)
            )
        })
    }

    /// The higher of the machine's and the interface's setting applies: 1 drops packets from sources that are routed
    /// elsewhere, 2 those from sources that are not routed at all.
    fn reverse_path(
        &self,
        devices: &[&str],
        unknown_sources: Option<UnknownSources>,
        all_is_cleared: bool,
        read: impl Fn(&str) -> Option<u32>,
    ) -> Option<String> {
        if !self.v4 && self.v6 {
            return None;
        }
        let all = "ipv4/conf/all/rp_filter";
        let key = |device: &str| format!("ipv4/conf/{device}/rp_filter");
        let value = |key: &str| read(key).unwrap_or(0);
        let of_all = if all_is_cleared { 0 } else { value(all) };
        let of = |device: &str| of_all.max(value(&key(device)));
        let drops = |device: &&str| match of(device) {
            0 => false,
            1 => true,
            _ => unknown_sources.is_some(),
        };
        let devices: Vec<&str> = devices.iter().copied().filter(drops).collect();
        if devices.is_empty() {
            return None;
        }
        let is_strict = devices.iter().any(|device| of(device) == 1);
        let sources = match (is_strict, unknown_sources) {
            (true, _) => "does not route back out of the interface where they arrive".to_owned(),
            (false, Some(UnknownSources::Known(prefix))) => format!("has no route to, such as {prefix}"),
            (false, _) => "has no route to".to_owned(),
        };
        let (keys, wanted): (Vec<String>, u32) = match unknown_sources {
            None => (devices.iter().map(|device| key(device)).collect(), 2),
            Some(_) => {
                let keys = std::iter::once(all.to_owned()).chain(devices.iter().map(|device| key(device)));
                (keys.filter(|key| value(key) != 0).collect(), 0)
            }
        };
        Some(format!(
            "rp_filter drops IPv4 packets from `dev lo` routes that arrive at {} from sources that the kernel {sources}: {}",
            devices.join(", "),
            self.command(&keys, wanted)
        ))
    }

    fn command(&self, keys: &[String], value: u32) -> String {
        let settings = keys.iter().map(|key| format!(" {}={value}", sysctl::name(key)));
        format!("`{}sysctl -w{}`", self.prefix, settings.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn devices(names: &[&str], unknown_sources: Option<UnknownSources>) -> Vec<Device> {
        let device = |name: &&str| Device {
            name: (*name).to_owned(),
            unknown_sources,
        };
        names.iter().map(device).collect()
    }

    fn situation(names: &[&str]) -> Situation {
        Situation {
            devices: devices(names, None),
            v4: true,
            v6: true,
            ..Situation::default()
        }
    }

    fn warnings(situation: &Situation, settings: &[(&str, u32)]) -> Vec<String> {
        let settings: HashMap<_, _> = settings.iter().copied().collect();
        situation.warnings(|key| settings.get(key).copied())
    }

    #[test]
    fn forwarding_that_is_off_is_named_by_family() {
        let one = situation(&["eth1"]);
        let off = [
            ("ipv4/ip_forward", 0),
            ("ipv4/conf/eth1/forwarding", 0),
            ("ipv6/conf/all/forwarding", 0),
        ];
        let v4 = "the kernel drops IPv4 packets from `dev lo` routes that are not for this machine, because net.ipv4.ip_forward \
                  is 0: `sysctl -w net.ipv4.ip_forward=1`";
        let v6 = "the kernel drops IPv6 packets from `dev lo` routes that are not for this machine, because \
                  net.ipv6.conf.all.forwarding is 0: `sysctl -w net.ipv6.conf.all.forwarding=1`";
        assert_eq!(warnings(&one, &off), [v4, v6]);
        let only = |v4, v6| Situation {
            v4,
            v6,
            ..situation(&["eth1"])
        };
        assert_eq!(warnings(&only(true, false), &off), [v4]);
        assert_eq!(warnings(&only(false, true), &off), [v6]);
        // Without an address or a route, IPv4 is the likely one.
        assert_eq!(warnings(&only(false, false), &off), [v4]);
        assert!(warnings(&one, &off.map(|(key, _)| (key, 1))).is_empty());
        // A kernel without either family.
        assert!(warnings(&one, &[]).is_empty());
    }

    #[test]
    fn a_port_that_is_set_apart_is_named() {
        let two = Situation {
            v6: false,
            prefix: "ip netns exec r1 ".into(),
            ..situation(&["eth1", "eth2.100"])
        };
        let settings = [
            ("ipv4/ip_forward", 1),
            ("ipv4/conf/eth1/forwarding", 1),
            ("ipv4/conf/eth2.100/forwarding", 0),
        ];
        assert_eq!(
            warnings(&two, &settings),
            [
                "the kernel drops IPv4 packets from `dev lo` routes that are not for this machine, because \
                 net.ipv4.conf.eth2/100.forwarding is 0: `ip netns exec r1 sysctl -w net.ipv4.conf.eth2/100.forwarding=1`"
            ]
        );
    }

    #[test]
    fn rp_filter_is_named_where_it_drops() {
        let with = |unknown_sources| Situation {
            devices: devices(&["eth1", "eth2"], unknown_sources),
            ..situation(&[])
        };
        let strict = [("ipv4/conf/all/rp_filter", 0), ("ipv4/conf/eth2/rp_filter", 1)];
        let loose = [("ipv4/conf/all/rp_filter", 2), ("ipv4/conf/eth1/rp_filter", 1)];
        assert_eq!(
            warnings(&with(None), &strict),
            [
                "rp_filter drops IPv4 packets from `dev lo` routes that arrive at eth2 from sources that the kernel does not route \
                 back out of the interface where they arrive: `sysctl -w net.ipv4.conf.eth2.rp_filter=2`"
            ]
        );
        assert!(warnings(&with(None), &loose).is_empty());
        assert_eq!(
            warnings(&with(Some(UnknownSources::Any)), &strict),
            [
                "rp_filter drops IPv4 packets from `dev lo` routes that arrive at eth2 from sources that the kernel does not route \
                 back out of the interface where they arrive: `sysctl -w net.ipv4.conf.eth2.rp_filter=0`"
            ]
        );
        let far = "10.3.3.0/24".parse().unwrap();
        assert_eq!(
            warnings(&with(Some(UnknownSources::Known(far))), &loose),
            [
                "rp_filter drops IPv4 packets from `dev lo` routes that arrive at eth1, eth2 from sources that the kernel has no \
                 route to, such as 10.3.3.0/24: `sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0`"
            ]
        );
    }

    #[test]
    fn what_the_kernel_has_no_route_to_is_a_matter_of_the_vrf() {
        let far = UnknownSources::Known("10.3.3.0/24".parse().unwrap());
        let two = Situation {
            devices: [devices(&["eth1"], None), devices(&["red"], Some(far))].concat(),
            ..situation(&[])
        };
        let settings = [("ipv4/conf/eth1/rp_filter", 2), ("ipv4/conf/red/rp_filter", 2)];
        assert_eq!(
            warnings(&two, &settings),
            [
                "rp_filter drops IPv4 packets from `dev lo` routes that arrive at red from sources that the kernel has no route to, \
                 such as 10.3.3.0/24: `sysctl -w net.ipv4.conf.red.rp_filter=0`"
            ]
        );
    }

    /// The settings that the commands in the warnings write, as the kernel takes them.
    fn carry_out(warnings: &[String], settings: &mut HashMap<String, u32>, devices: &[&str]) {
        let commands = warnings.iter().filter_map(|warning| warning.split('`').rev().nth(1));
        for setting in commands.flat_map(|command| command.split(' ').skip(2)) {
            let (name, value) = setting.split_once('=').unwrap();
            let key = name.trim_start_matches("net.").replace('.', "/");
            let value = value.parse().unwrap();
            if key == "ipv4/ip_forward" {
                for device in devices {
                    settings.insert(format!("ipv4/conf/{device}/forwarding"), value);
                }
            }
            assert!(settings.insert(key, value).is_some(), "{setting}");
        }
    }

    proptest! {
        #[test]
        fn the_commands_help(
            forwards in prop::array::uniform4(0..2_u32),
            filters in prop::array::uniform3(0..3_u32),
            have_default in any::<[bool; 2]>(),
        ) {
            let names = ["eth1", "eth2"];
            let device = |(name, has_default): (&&str, bool)| {
                devices(&[*name], (!has_default).then_some(UnknownSources::Any))
            };
            let situation = Situation {
                devices: names.iter().zip(have_default).flat_map(device).collect(),
                ..situation(&[])
            };
            let mut settings: HashMap<String, u32> = [
                ("ipv4/ip_forward", forwards[0]),
                ("ipv4/conf/eth1/forwarding", forwards[1]),
                ("ipv4/conf/eth2/forwarding", forwards[2]),
                ("ipv6/conf/all/forwarding", forwards[3]),
                ("ipv4/conf/all/rp_filter", filters[0]),
                ("ipv4/conf/eth1/rp_filter", filters[1]),
                ("ipv4/conf/eth2/rp_filter", filters[2]),
            ].map(|(key, value)| (key.to_owned(), value)).into();
            let before = situation.warnings(|key| settings.get(key).copied());
            carry_out(&before, &mut settings, &names);
            let after = situation.warnings(|key| settings.get(key).copied());
            prop_assert!(after.is_empty(), "{before:?}, then {after:?}");
        }
    }
}
