//! Whether the machine still has a network: who answers that answered before an update. Found
//! without any configuration, so that a target that cuts the network is noticed by every machine.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::net::TcpStream;

/// How long somebody may take to accept a connection.
const ACCEPT: Duration = Duration::from_secs(5);

/// How long a gateway is given: longer than the kernel takes to find out that a neighbour that it
/// still remembers is gone (`neigh/*/delay_first_probe_time`, and three probes of a second).
const NEIGHBOUR: Duration = Duration::from_secs(10);

/// A port that nobody serves: a gateway's refusal says as well that it is there.
const DISCARD: u16 = 9;

/// Where Nix fetches from unless it is told otherwise.
const USUAL_SUBSTITUTER: &str = "https://cache.nixos.org";

/// `RTF_GATEWAY` of `route(8)`'s flags.
const VIA_GATEWAY: u32 = 2;

/// `ATF_COM` of `arp(7)`: the neighbour's address is known.
const COMPLETE: u32 = 2;

/// Whether somebody accepts a connection there.
pub(crate) async fn accepts(address: &str) -> bool {
    let connecting = tokio::time::timeout(ACCEPT, TcpStream::connect(address));
    matches!(connecting.await, Ok(Ok(_)))
}

/// Whether a gateway of a default route is there.
pub(crate) async fn gateway() -> bool {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let four = gateways(&read("/proc/net/route"));
    let six = gateways_6(&read("/proc/net/ipv6_route"));
    let six = six.into_iter().map(|(gateway, device)| {
        let index = read(&format!("/sys/class/net/{device}/ifindex"));
        let scope = index.trim().parse().unwrap_or(0);
        SocketAddr::from(SocketAddrV6::new(gateway, DISCARD, 0, scope))
    });
    let all = four
        .into_iter()
        .map(|gateway| SocketAddr::new(gateway.into(), DISCARD))
        .chain(six)
        .map(is_there);
    join_all(all).await.contains(&true)
}

async fn is_there(gateway: SocketAddr) -> bool {
    match tokio::time::timeout(NEIGHBOUR, TcpStream::connect(gateway)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => true,
        // It may only be silent: then the kernel knows its hardware address, or it would not by now.
        Err(_) => fs::read_to_string("/proc/net/arp").is_ok_and(|arp| is_known(&arp, gateway.ip())),
        Ok(Err(_)) => false,
    }
}

/// Whether one of the substituters that Nix's configuration names accepts a connection.
pub(crate) async fn substituter() -> bool {
    let conf = fs::read_to_string("/etc/nix/nix.conf").unwrap_or_default();
    let servers = servers(&conf);
    join_all(servers.iter().map(|server| accepts(server)))
        .await
        .contains(&true)
}

/// Gateways of the default routes in `/proc/net/route`.
fn gateways(routes: &str) -> Vec<Ipv4Addr> {
    let gateway = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let via_gateway = number(1)? == 0 && number(3)? & VIA_GATEWAY != 0;
        via_gateway.then(|| Some(Ipv4Addr::from(number(2)?.to_ne_bytes())))?
    };
    routes.lines().filter_map(gateway).collect()
}

/// The same of `/proc/net/ipv6_route`, each with its device.
fn gateways_6(routes: &str) -> Vec<(Ipv6Addr, String)> {
    let gateway = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u128::from_str_radix(fields.get(index)?, 16).ok();
        let by_default = number(0)? == 0 && number(1)? == 0;
        let gateway = number(4).filter(|gateway| by_default && *gateway != 0)?;
        Some((Ipv6Addr::from(gateway), (*fields.get(9)?).to_owned()))
    };
    routes.lines().filter_map(gateway).collect()
}

/// Whether `/proc/net/arp` knows a neighbour's hardware address.
fn is_known(arp: &str, neighbour: IpAddr) -> bool {
    arp.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let address = fields.next().and_then(|text| text.parse::<IpAddr>().ok());
        let flags = fields.nth(1).and_then(|text| text.strip_prefix("0x"));
        let flags = flags.and_then(|text| u32::from_str_radix(text, 16).ok());
        address == Some(neighbour) && flags.is_some_and(|flags| flags & COMPLETE != 0)
    })
}

/// `host:port` of the substituters in a `nix.conf`.
fn servers(conf: &str) -> Vec<String> {
    let settings = || conf.lines().filter_map(|line| line.split_once('='));
    let of = |wanted: &'static str| {
        settings()
            .filter(move |(name, _)| name.trim() == wanted)
            .flat_map(|(_, value)| value.split_whitespace())
    };
    let mut urls: Vec<&str> = of("substituters").collect();
    if settings().all(|(name, _)| name.trim() != "substituters") {
        urls.push(USUAL_SUBSTITUTER);
    }
    urls.extend(of("extra-substituters"));
    urls.into_iter().filter_map(server).collect()
}

/// `host:port` of a URL that is reached over the network.
fn server(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let host = rest.split(['/', '?']).next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match host {
        "" => None,
        host if has_port => Some(host.to_owned()),
        host => Some(format!("{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_read_from_the_routes() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
             eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\n\
             eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\n\
             wg0\t00000000\t00000000\t0001\t0\t0\t200\t00000000\n";
        let expected = if cfg!(target_endian = "little") {
            Ipv4Addr::new(192, 168, 1, 1)
        } else {
            Ipv4Addr::new(1, 1, 168, 192)
        };
        assert_eq!(gateways(routes), [expected]);
        let zero = "0".repeat(32);
        let gateway = "fe800000000000000000000000000001";
        let routes = format!(
            "{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n"
        );
        let found = gateways_6(&routes);
        let expected: Ipv6Addr = "fe80::1".parse().expect("an address");
        assert_eq!(found, [(expected, "eth0".to_owned())]);
    }

    #[test]
    fn a_neighbour_is_known_by_its_hardware_address() {
        let arp = "IP address       HW type     Flags       HW address            Mask     Device\n\
             192.168.1.1      0x1         0x2         52:54:00:12:35:02     *        eth0\n\
             192.168.1.7      0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let known = |address: &str| is_known(arp, address.parse().expect("an address"));
        assert!(known("192.168.1.1"));
        assert!(!known("192.168.1.7") && !known("192.168.1.9"));
    }

    #[test]
    fn substituters_are_read_from_nix_s_configuration() {
        assert_eq!(servers(""), ["cache.nixos.org:443"]);
        let conf = "substituters = https://a.org/x http://b.org:8080 file:///srv s3://c\n\
             extra-substituters = https://u:p@d.org?priority=1\ntrusted-substituters = https://e\n";
        assert_eq!(servers(conf), ["a.org:443", "b.org:8080", "d.org:443"]);
        assert_eq!(servers("substituters =\n"), Vec::<String>::new());
    }

    #[tokio::test]
    async fn whoever_accepts_a_connection_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        assert!(accepts(&address).await);
        drop(listener);
        assert!(!accepts(&address).await);
    }
}
