//! A host and a port, as people write them. It looks nothing up and opens nothing.

use core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

/// The longest name of a host.
const HOST_MAX: usize = 253;

/// Where somebody listens, or is to listen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The name or the number of the machine, an IPv6 one without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; never zero.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host at another port.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Whether it stands for every address of a machine, and so for none that others could call.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.to_canonical().is_unspecified())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = digits.then(|| port.parse().ok()).flatten().filter(|port| *port != 0);
        let port = port.ok_or("has no port from 1 to 65535 after its last colon")?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => {
                let six = host.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6);
                six.ok_or("has no IPv6 address in its brackets")?.to_string()
            }
            None if host.contains(':') => return Err("is IPv6 without brackets around the host"),
            None => named(host)?,
        };
        Ok(Self { host, port })
    }
}

/// A name or an IPv4 address.
fn named(host: &str) -> Result<String, &'static str> {
    if host.is_empty() {
        return Err("has no host before its colon");
    }
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return match host.parse::<IpAddr>() {
            Ok(ip) => Ok(ip.to_string()),
            Err(_) => Err("has a number for a host that is no IPv4 address"),
        };
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let starts = !host.starts_with(['.', '-']) && host.len() <= HOST_MAX;
    if starts && host.bytes().all(plain) {
        return Ok(host.to_ascii_lowercase());
    }
    Err("has a host that is no name of a machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for text in ["db1:7400", "10.0.0.1:1", "[::1]:65535", "db-1.example.org:5432", "a_b:9"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("DB1:7400".parse::<Address>().unwrap().to_string(), "db1:7400");
        assert_eq!("[0:0::1]:1".parse::<Address>().unwrap().to_string(), "[::1]:1");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_fault() {
        for (text, fault) in [
            ("db1", "has no port"),
            ("db1:", "port from 1"),
            ("db1:0", "port from 1"),
            ("db1:+5", "port from 1"),
            ("db1:65536", "port from 1"),
            (":7400", "no host"),
            ("::1:7400", "without brackets"),
            ("[10.0.0.1]:7400", "no IPv6"),
            ("10.0.0.300:7400", "no IPv4"),
            ("db 1:7400", "no name"),
            ("http://db1:7400", "without brackets"),
            ("döb:7400", "no name"),
            ("-db:7400", "no name"),
        ] {
            let why = text.parse::<Address>().unwrap_err();
            assert!(why.contains(fault), "{text}: {why}");
        }
    }

    #[test]
    fn only_this_machine_reaches_a_loopback_address() {
        for text in ["127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1"]
        {
            assert!(text.parse::<Address>().unwrap().is_loopback(), "{text}");
        }
        for text in ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "db1:1", "localhost.example.org:1"] {
            assert!(!text.parse::<Address>().unwrap().is_loopback(), "{text}");
        }
        assert!("0.0.0.0:1".parse::<Address>().unwrap().is_unspecified());
        assert!("[::]:1".parse::<Address>().unwrap().is_unspecified());
    }
}
