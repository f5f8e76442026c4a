//! Single values: from what was written to what it means, with its range.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{Wrong, quoted};
use super::units;
use super::url::HttpUrl;
use super::yaml::Value;
use crate::frame::Mac;

/// Text of at least one character and without control characters.
pub(super) fn text(value: &Value, expected: &str) -> Result<String, Wrong> {
    match value {
        Value::Text(text) if text.is_empty() => Err(Wrong::new("the text is empty", expected)),
        Value::Text(text) if text.contains(char::is_control) => {
            Err(Wrong::new(format!("{} has control characters", quoted(text)), expected))
        }
        Value::Text(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Truth(_) => Err(Wrong::new(
            format!("{value} is not text"),
            format!("{expected}; put it in quotes if it is meant as text"),
        )),
        _ => Err(Wrong::new(format!("{value} is not text"), expected)),
    }
}

/// A cluster's or a member's name.
pub(super) fn name(value: &Value) -> Result<String, Wrong> {
    const EXPECTED: &str = "1 to 32 of the characters a-z A-Z 0-9 . _ -";
    let name = text(value, EXPECTED)?;
    if name.len() > 32 {
        return Err(Wrong::new(format!("{} has {} bytes", quoted(&name), name.len()), EXPECTED));
    }
    match name.chars().find(|letter| !letter.is_ascii_alphanumeric() && !matches!(letter, '.' | '_' | '-')) {
        Some(odd) => Err(Wrong::new(format!("{} has the character {odd:?}", quoted(&name)), EXPECTED)),
        None => Ok(name),
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(value: &Value, words: &[(&str, T)]) -> Result<T, Wrong> {
    let found = match value {
        Value::Text(text) => words.iter().find(|(word, _)| word == text),
        _ => None,
    };
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Wrong::new(format!("{value} is not known"), words.join(" | "))
    })
}

/// A whole number within `range`; `what` it counts stands in the message.
pub(super) fn integer<T>(value: &Value, range: RangeInclusive<T>, what: &str) -> Result<T, Wrong>
where
    T: Copy + TryFrom<i128> + Into<i128>,
{
    let (least, most): (i128, i128) = ((*range.start()).into(), (*range.end()).into());
    let expected = || format!("{what} from {least} to {most}");
    match value {
        Value::Integer(number) if (least..=most).contains(number) => {
            T::try_from(*number).map_err(|_| Wrong::new(format!("{number} is out of range"), expected()))
        }
        Value::Integer(number) => Err(Wrong::new(format!("{number} is out of range"), expected())),
        _ => Err(Wrong::new(format!("{value} is not a whole number"), expected())),
    }
}

/// A TCP port.
pub(super) fn port(value: &Value) -> Result<u16, Wrong> {
    integer(value, 1..=65535, "a TCP port")
}

/// A duration within `range`.
pub(super) fn duration(value: &Value, range: RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let (least, most) = (units::show(*range.start()), units::show(*range.end()));
    let expected = format!("a duration from {least} to {most}, such as 10ms, 2s or 1m");
    let duration = match value {
        Value::Integer(0) => Some(Duration::ZERO),
        Value::Text(text) => units::duration(text),
        _ => None,
    };
    match duration {
        Some(duration) if range.contains(&duration) => Ok(duration),
        Some(_) => Err(Wrong::new(format!("{value} is out of range"), expected)),
        None => Err(Wrong::new(format!("{value} is not a duration"), expected)),
    }
}

/// A duration within `range`, or `None` for the word `never`.
pub(super) fn duration_or_never(value: &Value, range: RangeInclusive<Duration>) -> Result<Option<Duration>, Wrong> {
    if *value == Value::Text("never".into()) {
        return Ok(None);
    }
    duration(value, range).map(Some).map_err(|wrong| Wrong::new(wrong.what, format!("{}, or never", wrong.expected)))
}

/// A percentage from 0 to 100, as a fraction.
pub(super) fn percentage(value: &Value) -> Result<f64, Wrong> {
    let fraction = if let Value::Text(text) = value { units::percentage(text) } else { None };
    match fraction {
        Some(fraction) if fraction <= 1.0 => Ok(fraction),
        Some(_) => Err(Wrong::new(format!("{value} is out of range"), "a percentage from 0% to 100%")),
        None => Err(Wrong::new(format!("{value} is not a percentage"), "a percentage such as 20%")),
    }
}

/// A path; a relative one starts from `base`.
pub(super) fn path(value: &Value, base: &Path) -> Result<PathBuf, Wrong> {
    text(value, "a path").map(|path| base.join(path))
}

/// The path of a Unix socket.
pub(super) fn socket_path(value: &Value) -> Result<PathBuf, Wrong> {
    // sockaddr_un.sun_path holds 108 bytes, one of them the terminating zero (unix(7)).
    const MOST: usize = 107;
    let expected = format!("an absolute path of at most {MOST} bytes");
    let path = text(value, &expected)?;
    if path.len() > MOST {
        return Err(Wrong::new(format!("the path has {} bytes", path.len()), expected));
    }
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(Wrong::new(format!("{} is not the absolute path of a file", quoted(&path)), expected));
    }
    Ok(path.into())
}

/// A program and its arguments.
pub(super) fn command(value: &Value) -> Result<Vec<String>, Wrong> {
    const EXPECTED: &str = "a list of the program and its arguments, such as [/usr/bin/check, --fast]";
    let Value::List(items) = value else {
        return Err(Wrong::new(format!("{value} is not a list"), EXPECTED));
    };
    if items.is_empty() {
        return Err(Wrong::new("the list is empty", EXPECTED));
    }
    let words = items.iter().enumerate().map(|(position, item)| match &item.value {
        // An argument may be empty; a program may not.
        Value::Text(word) if word.is_empty() && position > 0 => Ok(String::new()),
        word => text(word, EXPECTED),
    });
    words.collect()
}

/// A socket address to listen on.
pub(super) fn listen(value: &Value) -> Result<SocketAddr, Wrong> {
    const EXPECTED: &str = "an IP address and port such as 127.0.0.1:9464 or [::1]:9464";
    let written = text(value, EXPECTED)?;
    let address: SocketAddr = written
        .parse()
        .map_err(|_| Wrong::new(format!("{} is not an address with a port", quoted(&written)), EXPECTED))?;
    if address.port() == 0 {
        return Err(Wrong::new("port 0 can not be listened on", EXPECTED));
    }
    Ok(address)
}

/// A MAC address that a virtual IP can have.
pub(super) fn mac(value: &Value) -> Result<Mac, Wrong> {
    const EXPECTED: &str = "auto, or a MAC address such as 02:00:5e:00:01:0a";
    let written = text(value, EXPECTED)?;
    let mac: Mac = written.parse().map_err(|why| Wrong::new(format!("{} is {why}", quoted(&written)), EXPECTED))?;
    let unfit = if mac == Mac::BROADCAST {
        "the broadcast address"
    } else if mac == Mac::default() {
        "the zero address"
    } else if mac.0[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && mac.0[5] < 0x10 {
        // IEEE Std 802.1Q, 8.6.3: bridges never forward these.
        "an address that no switch forwards"
    } else {
        return Ok(mac);
    };
    Err(Wrong::new(format!("{mac} is {unfit}"), EXPECTED))
}

/// An address with its subnet's prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
}

impl Network {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// Whether `address` is of this subnet.
    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ address.to_bits()) & self.mask() == 0
    }

    /// Why no host of the subnet can have `address`, if so: it names the subnet or all of its hosts. Subnets of one
    /// or two addresses have neither (RFC 3021).
    pub(super) fn reserves(self, address: Ipv4Addr) -> Option<&'static str> {
        let host = address.to_bits() & !self.mask();
        match host {
            _ if self.prefix >= 31 => None,
            0 => Some("the network's own address"),
            _ if host == !self.mask() => Some("the network's broadcast address"),
            _ => None,
        }
    }
}

/// The one place that refuses IPv6: what reads addresses comes through here.
fn ipv4(address: IpAddr, what: &str, expected: &str) -> Result<Ipv4Addr, Wrong> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(Wrong::new(format!("IPv6 {what} are not served yet"), expected)),
    }
}

/// Why a host cannot have an address whatever its subnet, if so.
fn unfit(address: Ipv4Addr) -> Option<&'static str> {
    match address {
        _ if address.octets()[0] == 0 => Some("of \"this network\""),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        _ if address.octets()[0] >= 240 => Some("a reserved address"),
        _ => None,
    }
}

/// The address of a host with its subnet. `what` it is for, in the plural, stands in the message about IPv6.
pub(super) fn network(value: &Value, what: &str, example: &str) -> Result<Network, Wrong> {
    let expected = format!("an IPv4 address with prefix such as {example}");
    let written = text(value, &expected)?;
    let not_one = |why: &str| Wrong::new(format!("{} {why}", quoted(&written)), expected.clone());
    let (address, prefix) = match written.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (written.as_str(), None),
    };
    let address: IpAddr = address.parse().map_err(|_| not_one("is not an IP address with prefix"))?;
    let address = ipv4(address, what, &expected)?;
    let prefix = prefix.ok_or_else(|| not_one("has no prefix"))?;
    let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let length = prefix.parse().ok().filter(|length| digits && *length <= 32);
    let network = Network { address, prefix: length.ok_or_else(|| not_one("has a prefix that is not 0 to 32"))? };
    match unfit(address).or(network.reserves(address)) {
        Some(why) => Err(Wrong::new(format!("{address} is {why}"), expected)),
        None => Ok(network),
    }
}

/// The address of a host.
pub(super) fn address(value: &Value, what: &str, example: &str) -> Result<Ipv4Addr, Wrong> {
    let expected = format!("an IPv4 address such as {example}");
    let written = text(value, &expected)?;
    let address: IpAddr = written
        .parse()
        .map_err(|_| Wrong::new(format!("{} is not an IP address", quoted(&written)), expected.clone()))?;
    let address = ipv4(address, what, &expected)?;
    match unfit(address) {
        Some(why) => Err(Wrong::new(format!("{address} is {why}"), expected)),
        None => Ok(address),
    }
}

/// The name of a network interface.
pub(super) fn interface(value: &Value) -> Result<String, Wrong> {
    // IFNAMSIZ is 16 with the terminating zero; the kernel's dev_valid_name() refuses the characters below.
    const EXPECTED: &str = "an interface name of 1 to 15 bytes, without spaces, '/' and ':'";
    let name = text(value, EXPECTED)?;
    if name.len() > 15 {
        return Err(Wrong::new(format!("{} has {} bytes", quoted(&name), name.len()), EXPECTED));
    }
    let odd = |letter: char| letter.is_whitespace() || matches!(letter, '/' | ':' | '%' | ',');
    if name.contains(odd) || name == "." || name == ".." {
        return Err(Wrong::new(format!("{} can not name an interface", quoted(&name)), EXPECTED));
    }
    Ok(name)
}

/// A PCI address, with or without domain.
pub(super) fn pci(value: &Value) -> Result<String, Wrong> {
    const EXPECTED: &str = "a PCI address such as \"0000:03:00.0\", in quotes";
    let address = text(value, EXPECTED)?;
    if is_pci(&address) {
        return Ok(address);
    }
    Err(Wrong::new(format!("{} is not a PCI address", quoted(&address)), EXPECTED))
}

/// `[DDDD:]BB:DD.F`, hexadecimal; a device has 5 bits, a function 3 (PCI Local Bus Specification, 3.2.2.3).
fn is_pci(address: &str) -> bool {
    let hexadecimal = |part: &str, digits: usize, most: u32| {
        part.len() == digits
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            && u32::from_str_radix(part, 16).is_ok_and(|number| number <= most)
    };
    let Some((path, function)) = address.split_once('.') else { return false };
    let parts: Vec<&str> = path.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return false,
    };
    hexadecimal(domain, 4, 0xffff)
        && hexadecimal(bus, 2, 0xff)
        && hexadecimal(device, 2, 0x1f)
        && hexadecimal(function, 1, 7)
}

/// A DPDK virtual device, as EAL's `--vdev` takes it.
pub(super) fn vdev(value: &Value) -> Result<String, Wrong> {
    const EXPECTED: &str = "a DPDK device and its arguments such as \"net_virtio_user0,path=/run/vhost.sock\"";
    let device = text(value, EXPECTED)?;
    let name = device.split(',').next().unwrap_or_default();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(plain) || device.contains(char::is_whitespace) {
        return Err(Wrong::new(format!("{} is not a device with arguments", quoted(&device)), EXPECTED));
    }
    Ok(device)
}

/// An EtherType for heartbeats.
pub(super) fn ethertype(value: &Value) -> Result<u16, Wrong> {
    /// What switches and hosts take for something else (IEEE 802 and IANA registries).
    const TAKEN: [(u16, &str); 18] = [
        (0x0800, "IPv4"),
        (0x0806, "ARP"),
        (0x6558, "transparent Ethernet bridging"),
        (0x8035, "RARP"),
        (0x8100, "VLAN tags"),
        (0x86dd, "IPv6"),
        (0x8808, "flow control"),
        (0x8809, "link aggregation"),
        (0x8847, "MPLS"),
        (0x8848, "MPLS multicast"),
        (0x8863, "PPPoE discovery"),
        (0x8864, "PPPoE"),
        (0x888e, "port authentication"),
        (0x88a8, "service VLAN tags"),
        (0x88cc, "LLDP"),
        (0x88e5, "MACsec"),
        (0x88f7, "PTP"),
        (0x9000, "loop detection"),
    ];
    const EXPECTED: &str = "an EtherType from 0x0600 to 0xffff that is free, such as 0x88b5 or 0x88b6";
    let Value::Integer(number) = *value else {
        return Err(Wrong::new(format!("{value} is not a number"), EXPECTED));
    };
    let ethertype = u16::try_from(number).ok().filter(|ethertype| *ethertype >= 0x0600);
    let ethertype = ethertype.ok_or_else(|| Wrong::new(format!("{value} is out of range"), EXPECTED))?;
    match TAKEN.iter().find(|(taken, _)| *taken == ethertype) {
        Some((_, what)) => Err(Wrong::new(format!("{ethertype:#06x} stands for {what}"), EXPECTED)),
        None => Ok(ethertype),
    }
}

/// The URL of a health check.
pub(super) fn http_url(value: &Value) -> Result<HttpUrl, Wrong> {
    const EXPECTED: &str = "a URL such as http://10.0.0.100/healthz (https is not probed)";
    let url = text(value, EXPECTED)?;
    HttpUrl::parse(&url).ok_or_else(|| Wrong::new(format!("{} is not an HTTP URL", quoted(&url)), EXPECTED))
}
