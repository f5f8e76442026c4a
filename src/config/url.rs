//! The URL of an HTTP health check.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An `http://` URL (RFC 9110, section 4.2.1), taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// Where to connect; `None` where the URL has a name. Names are not looked up: see [`HttpUrl::address`].
    address: Option<IpAddr>,
    port: u16,
    authority: String,
    target: String,
}

impl HttpUrl {
    /// Takes a URL apart. `None` if it is not an HTTP URL, has a user, or has a host that can not be one.
    pub fn parse(url: &str) -> Option<HttpUrl> {
        let rest = url.strip_prefix("http://")?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        // The fragment is not sent (RFC 9110, section 7.1).
        let rest = rest.split('#').next()?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.rfind(':') {
            Some(colon) if !authority.ends_with(']') => (&authority[..colon], port(&authority[colon + 1..])?),
            _ => (authority, 80),
        };
        let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => Some(host.parse::<Ipv6Addr>().ok()?.into()),
            None if host == "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            None => match host.parse::<Ipv4Addr>() {
                Ok(address) => Some(address.into()),
                Err(_) if is_name(host) => None,
                Err(_) => return None,
            },
        };
        let target = if path.starts_with('/') { path.into() } else { format!("/{path}") };
        Some(HttpUrl { address, port, authority: authority.into(), target })
    }

    /// Where to connect: the URL's address; `vip` where it has a name. A health check asks this machine, whatever a
    /// name server says; and it must not fail or hang because of one.
    pub fn address(&self, vip: IpAddr) -> IpAddr {
        self.address.unwrap_or(vip)
    }

    /// The TCP port, 80 if not written.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the `Host` field says: host and port as written.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request's target in origin form: path and query (RFC 9112, section 3.2.1).
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.target)
    }
}

fn port(digits: &str) -> Option<u16> {
    // u16's own parser takes a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&port| plain && port != 0)
}

/// A name, not an address gone wrong: no top-level domain is a number (RFC 3696, section 2).
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));

    fn parts(url: &str) -> Option<(String, String, String)> {
        let url = HttpUrl::parse(url)?;
        let to = std::net::SocketAddr::new(url.address(VIP), url.port());
        Some((to.to_string(), url.authority().into(), url.target().into()))
    }

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            ("http://10.0.0.7/healthz", "10.0.0.7:80", "10.0.0.7", "/healthz"),
            ("http://10.0.0.7:8080", "10.0.0.7:8080", "10.0.0.7:8080", "/"),
            ("http://localhost:81/a/b?c=d#e", "127.0.0.1:81", "localhost:81", "/a/b?c=d"),
            ("http://[::1]:8080?deep", "[::1]:8080", "[::1]:8080", "/?deep"),
            ("http://[::1]/", "[::1]:80", "[::1]", "/"),
            ("http://shop.example/x:y@z", "10.0.0.100:80", "shop.example", "/x:y@z"),
        ];
        for (url, to, authority, target) in cases {
            assert_eq!(parts(url), Some((to.into(), authority.into(), target.into())), "{url}");
        }
    }

    #[test]
    fn what_can_not_be_asked_is_refused() {
        let wrong = [
            "https://10.0.0.7/",
            "HTTP://10.0.0.7",
            "10.0.0.7",
            "http://",
            "http:///x",
            "http://:80/",
            "http://a:/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+80/",
            "http://user@a/",
            "http://10.0.0.300/",
            "http://a..b/",
            "http://[::1",
            "http://::1/",
            "http://[10.0.0.7]/",
            "http://[fe80::1%eth0]/",
            "http://a b/",
            "http://a/ b",
            "http://a/\r\nX: y",
            "http://é/",
        ];
        for url in wrong {
            assert_eq!(HttpUrl::parse(url), None, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "(http://)?[ -~\r\n]{0,40}") {
            if let Some(url) = HttpUrl::parse(&text) {
                let again = HttpUrl::parse(&url.to_string());
                prop_assert_eq!(again, Some(url));
            }
        }
    }
}
