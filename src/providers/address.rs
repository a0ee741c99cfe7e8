//! Where requests may go (SSRF): https to public addresses, or an origin that a superuser allowed.
//!
//! `permit` looks at the text before anything is resolved, `Permit::addresses` at what the name resolves to; the executor
//! connects to exactly those addresses, so that a second answer of the name server changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::{Host, Url};

#[derive(Debug, Clone, PartialEq)]
pub struct Permit {
    pub host: String,
    pub port: u16,
    /// Stands in the superuser's list: any address will do, and http.
    pub allowed: bool,
}

/// Whether a request may go to this address. `allowed`: origins (scheme://host[:port]) that a superuser listed,
/// separated by commas or blanks.
///
/// # Errors
/// Why not, in words; the address is not repeated.
pub fn permit(url: &str, allowed: &str) -> Result<Permit, &'static str> {
    let url = parse(url)?;
    let listed = allowed.split([',', ' ', '\n', '\t']).filter(|origin| !origin.is_empty());
    let allowed = listed.filter_map(|origin| parse(origin).ok()).any(|listed| listed.origin() == url.origin());
    if url.scheme() != "https" && !allowed {
        return Err("only https is used, but for origins that a superuser put into pg_finetune.allowed_origins");
    }
    let host = url.host().ok_or("the address has no host")?;
    let literal = match host {
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
        Host::Domain(_) => None,
    };
    if !allowed && literal.is_some_and(|ip| !public(ip)) {
        return Err(INSIDE);
    }
    let port = url.port_or_known_default().ok_or("the address has no port")?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Ok(Permit { host, port, allowed })
}

const INSIDE: &str =
    "it is an address inside this machine or network; a superuser may put the origin into pg_finetune.allowed_origins";

impl Permit {
    /// All that the name resolved to, or a refusal if a single one is inside: a name server that mixes them lies.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn addresses(&self, resolved: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, &'static str> {
        if resolved.is_empty() {
            return Err("the name has no address");
        }
        if !self.allowed && resolved.iter().any(|address| !public(address.ip())) {
            return Err(INSIDE);
        }
        Ok(resolved)
    }
}

/// The address as a URL with a host, http or https, without a user name.
///
/// # Errors
/// Why not, in words.
pub fn parse(text: &str) -> Result<Url, &'static str> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("an address without blanks and backslashes");
    }
    let url = Url::parse(text).map_err(|_| "an https:// address")?;
    match url.scheme() {
        "https" | "http" if !text.contains("://") => Err("an https:// address"),
        "https" | "http" if !url.username().is_empty() || url.password().is_some() || userinfo(text) => {
            Err("an address without a user name in it")
        }
        "https" | "http" => Ok(url),
        _ => Err("an https:// address"),
    }
}

fn userinfo(text: &str) -> bool {
    text.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next()).is_some_and(|host| host.contains('@'))
}

/// scheme://host:port, which a key is bound to.
pub fn origin(url: &str) -> Option<String> {
    parse(url).ok().map(|url| url.origin().ascii_serialization())
}

/// Neither this machine, nor a network behind it, nor a place where clouds keep their secrets.
pub fn public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => public_v4(ip),
        IpAddr::V6(ip) => public_v6(ip),
    }
}

fn public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let reserved = match (a, b, c) {
        (0, ..) | (240..=255, ..) => true,
        (100, 64..=127, _) => true,
        (192, 0, 0 | 2) | (192, 88, 99) => true,
        (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => true,
        // Azure's platform and Alibaba's metadata stand at public addresses.
        (168, 63, 129) => true,
        _ => false,
    };
    !(reserved || ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast())
}

fn public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let last = || {
        let [a, b] = s[6].to_be_bytes();
        let [c, d] = s[7].to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    let first_inside = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        // ::, ::1, ::a.b.c.d and ::ffff:a.b.c.d
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] if s[5] == 0xffff => public_v4(last()),
        [0, 0, 0, 0, 0, ..] => false,
        // NAT64
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => public_v4(last()),
        [0x64, 0xff9b, ..] => false,
        // 6to4 and Teredo carry an IPv4 address
        [0x2002, high, low, ..] => public_v4(first_inside(high, low)),
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] => false,
        // Only 2000::/3 is in use; unique local, link local, site local and multicast are not in it.
        [first, ..] => (0x2000..0x4000).contains(&first) && first < 0x3ff0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &str = "http://127.0.0.1:8484, https://gpu.internal";

    #[test]
    fn https_to_the_world_and_what_a_superuser_allowed() {
        let ok = |url: &str| permit(url, ALLOWED).unwrap();
        assert_eq!(
            ok("https://api.example.com/v1"),
            Permit { host: "api.example.com".into(), port: 443, allowed: false }
        );
        assert!(ok("http://127.0.0.1:8484/v1").allowed);
        assert!(ok("https://GPU.internal:443/x").allowed);
        assert_eq!(ok("https://[2606:4700::1111]/").host, "2606:4700::1111");
        assert_eq!(origin("https://A.example:443/x"), Some("https://a.example".into()));
    }

    #[test]
    fn every_disguise_is_refused() {
        let inside = [
            "http://127.0.0.1:8485/",
            "http://api.example.com/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0x7f.0.0.1/",
            "https://017700000001/",
            "https://0/",
            "https://10.0.0.1/",
            "https://172.31.255.255/",
            "https://192.168.1.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.64.0.1/",
            "https://100.100.100.200/",
            "https://168.63.129.16/",
            "https://192.0.0.192/",
            "https://198.18.0.1/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://[2001:0:1::1]/",
            "https://[fd00:ec2::254]/",
            "https://[fe80::1]/",
            "https://[fec0::1]/",
            "https://[ff02::1]/",
            "https://user@api.example.com/",
            "https://user:pass@api.example.com/",
            "https://@api.example.com/",
            "https://api.example.com\\@127.0.0.1/",
            "https://api.example.com /",
            "file:///etc/passwd",
            "unix:///run/x.sock",
            "gopher://x/",
            "https:api.example.com",
            "//api.example.com",
            "",
        ];
        for url in inside {
            assert!(permit(url, ALLOWED).is_err(), "{url}");
        }
    }

    #[test]
    fn names_are_judged_by_what_they_resolve_to() {
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 443);
        let public = permit("https://api.example.com", "").unwrap();
        assert!(public.addresses(vec![at("93.184.216.34"), at("2606:2800:220:1::1")]).is_ok());
        assert!(public.addresses(vec![at("93.184.216.34"), at("10.0.0.1")]).is_err(), "rebinding");
        assert!(public.addresses(vec![at("::ffff:127.0.0.1")]).is_err());
        assert!(public.addresses(vec![]).is_err());
        assert!(permit("https://gpu.internal", ALLOWED).unwrap().addresses(vec![at("10.0.0.1")]).is_ok());
    }
}
