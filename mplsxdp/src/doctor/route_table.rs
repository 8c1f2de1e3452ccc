//! The kernel's route tables as `/proc/net` shows them: which interfaces have a default route.

/// The interfaces of default routes in `/proc/net/route`: columns Iface, Destination, Gateway, Flags, RefCnt, Use,
/// Metric, Mask and others, after a line of heads.
pub fn default_v4(table: &str) -> Vec<String> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_default = columns.get(1)? == &"00000000" && columns.get(7)? == &"00000000";
        is_default.then(|| columns[0].to_owned())
    });
    routes.collect()
}

/// The same in `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, metric, two counters, flags,
/// interface. Every namespace has such routes on `lo`, which discard packets.
pub fn default_v6(table: &str) -> Vec<String> {
    let routes = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_default = columns.first()?.bytes().all(|digit| digit == b'0') && columns.get(1)? == &"00";
        let interface = *columns.get(9)?;
        (is_default && interface != "lo").then(|| interface.to_owned())
    });
    routes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  eth2\t00000000\t0100000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
        assert_eq!(default_v4(v4), ["eth0"]);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth1\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(default_v6(&v6), ["eth0"]);
        assert!(default_v4("").is_empty());
        assert!(default_v6("short line\n").is_empty());
    }
}
