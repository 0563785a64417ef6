//! Ports for servers of a moment: of a demonstration, of a test.
//!
//! A port that is asked of the kernel and let go of again may be anybody's next: the kernel deals
//! the same range out to every connection that is opened, also to the peers of the very server that
//! is about to listen there. So these lie below that range, and one process is given none of them
//! twice.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::OsEntropy;
use crate::env::Entropy;

/// Below are those that programs are known by.
const LOWEST: u16 = 10_000;
/// Where the kernel's own range begins if it does not say.
const USUALLY: u16 = 32_768;

/// Ports of this machine that nobody listens at, no two of them alike.
pub fn free(count: usize) -> io::Result<Vec<u16>> {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let ours = below(&std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range"));
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    // Elsewhere than another process that begins now.
    let first = next.unwrap_or_else(|| somewhere(&ours));
    let found = search(&ours, first, count)?;
    *next = found.last().map(|last| after(&ours, *last));
    Ok(found)
}

/// The next so many that are free, from `first` on and round the range once.
fn search(ours: &Range<u16>, first: u16, count: usize) -> io::Result<Vec<u16>> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let all = std::iter::successors(Some(first), |port| Some(after(ours, *port))).take(ours.len());
    let found: Vec<u16> = all.filter(is_free).take(count).collect();
    if found.len() < count {
        let all = format!("{} to {}", ours.start, ours.end - 1);
        return Err(io::Error::other(format!("fewer than {count} of the ports {all} are free")));
    }
    Ok(found)
}

fn after(ours: &Range<u16>, port: u16) -> u16 {
    if port + 1 < ours.end { port + 1 } else { ours.start }
}

/// What lies below the kernel's range, which `range` tells; a machine whose range leaves no room
/// there has to take the chance.
fn below(range: &io::Result<String>) -> Range<u16> {
    let first = range.as_ref().ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
    let first = first.unwrap_or(USUALLY);
    LOWEST..if first < 2 * LOWEST { USUALLY } else { first }
}

fn somewhere(range: &Range<u16>) -> u16 {
    let drawn = OsEntropy.next_u64() % u64::from(range.end - range.start);
    range.start + u16::try_from(drawn).expect("it is less than their number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_nor_one_that_the_kernel_gives_to_connections() {
        let mut given = free(20).unwrap();
        given.extend(free(20).unwrap());
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 40);
        let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let first: u16 = told.unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert!(first < 2 * LOWEST || given.iter().all(|port| *port < first), "{given:?}");
    }

    #[test]
    fn a_port_that_somebody_listens_at_is_passed_over() {
        let [first, second] = free(2).unwrap()[..] else { panic!("two were asked for") };
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        let both = first.min(second)..first.max(second) + 1;
        let found = search(&both, first, 1).unwrap();
        assert!(found.iter().all(|port| *port != first), "{first}: {found:?}");
        let said = search(&(first..first + 1), first, 1).unwrap_err().to_string();
        assert_eq!(said, format!("fewer than 1 of the ports {first} to {first} are free"));
    }

    #[test]
    fn the_range_ends_where_the_kernels_begins() {
        assert_eq!(below(&Ok("32768\t60999\n".into())), LOWEST..32_768);
        assert_eq!(below(&Ok("40000 60999".into())), LOWEST..40_000);
        assert_eq!(below(&Ok("1024 65535".into())), LOWEST..USUALLY);
        assert_eq!(below(&Err(io::ErrorKind::NotFound.into())), LOWEST..USUALLY);
    }
}
