//! Who may come in and wait: limits on connections that have not proved anything.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use mio::Token;

/// One place on the network for counting: an IPv4 address, or an IPv6 /64, which is what one
/// customer gets.
pub(crate) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

/// Counts accepted connections, half-open and all, by where they come from.
#[derive(Debug)]
pub(crate) struct Door {
    half_open_max: usize,
    half_open_per_source_max: usize,
    per_source_max: usize,
    /// Connections in their handshake, oldest first.
    half_open: VecDeque<(Token, IpAddr)>,
    sources: BTreeMap<IpAddr, Source>,
}

#[derive(Debug, Default)]
struct Source {
    half_open: usize,
    all: usize,
}

/// What the door says to a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Welcome,
    /// Welcome in place of this one, which has to [leave](Door::leave) now.
    InPlaceOf(Token),
    /// Its source has too many connections.
    Full,
}

impl Door {
    pub(crate) const fn new(half_open_max: usize, half_open_per_source_max: usize, per_source_max: usize) -> Self {
        Self {
            half_open_max,
            half_open_per_source_max,
            per_source_max,
            half_open: VecDeque::new(),
            sources: BTreeMap::new(),
        }
    }

    /// How many connections are in their handshake.
    pub(crate) fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Counts a newcomer in. The oldest half-open connection makes room, first of the same source:
    /// an honest handshake takes two round trips, so under a flood it is over long before it is
    /// the oldest.
    pub(crate) fn enter(&mut self, token: Token, ip: IpAddr) -> Verdict {
        let source = source_of(ip);
        let count = self.sources.entry(source).or_default();
        let evicted = if count.half_open >= self.half_open_per_source_max {
            self.half_open.iter().find(|(_, of)| *of == source).copied()
        } else if count.all >= self.per_source_max {
            // Those that wait make room before those who come are refused.
            match self.half_open.iter().find(|(_, of)| *of == source).copied() {
                None => return Verdict::Full,
                oldest => oldest,
            }
        } else if self.half_open.len() >= self.half_open_max {
            self.half_open.front().copied()
        } else {
            None
        };
        let count = self.sources.entry(source).or_default();
        count.half_open += 1;
        count.all += 1;
        self.half_open.push_back((token, source));
        evicted.map_or(Verdict::Welcome, |(evicted, _)| Verdict::InPlaceOf(evicted))
    }

    /// The handshake of a connection has ended well.
    pub(crate) fn proved(&mut self, token: Token) {
        if let Some(place) = self.half_open.iter().position(|(other, _)| *other == token)
            && let Some((_, source)) = self.half_open.remove(place)
            && let Some(count) = self.sources.get_mut(&source)
        {
            count.half_open -= 1;
        }
    }

    /// An accepted connection is gone.
    pub(crate) fn leave(&mut self, token: Token, ip: IpAddr) {
        self.proved(token);
        let source = source_of(ip);
        if let Some(count) = self.sources.get_mut(&source) {
            count.all -= 1;
            if count.all == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_oldest_of_the_same_source_makes_room_first() {
        let mut door = Door::new(4, 2, 10);
        assert_eq!(door.enter(Token(1), ip(1)), Verdict::Welcome);
        assert_eq!(door.enter(Token(2), ip(2)), Verdict::Welcome);
        assert_eq!(door.enter(Token(3), ip(2)), Verdict::Welcome);
        assert_eq!(door.enter(Token(4), ip(2)), Verdict::InPlaceOf(Token(2)));
        door.leave(Token(2), ip(2));
        assert_eq!(door.enter(Token(5), ip(3)), Verdict::Welcome);
        assert_eq!(door.enter(Token(6), ip(4)), Verdict::InPlaceOf(Token(1)));
        door.leave(Token(1), ip(1));
        assert_eq!(door.half_open(), 4);
    }

    #[test]
    fn a_source_with_too_many_links_is_refused() {
        let mut door = Door::new(10, 10, 2);
        for token in [Token(1), Token(2)] {
            assert_eq!(door.enter(token, ip(1)), Verdict::Welcome);
            door.proved(token);
        }
        assert_eq!(door.enter(Token(3), ip(1)), Verdict::Full);
        assert_eq!(door.enter(Token(4), ip(2)), Verdict::Welcome);
        door.leave(Token(1), ip(1));
        assert_eq!(door.enter(Token(5), ip(1)), Verdict::Welcome);
    }

    #[test]
    fn nothing_is_remembered_of_those_who_left() {
        let mut door = Door::new(10, 10, 2);
        door.enter(Token(1), ip(1));
        door.enter(Token(2), ip(2));
        door.proved(Token(2));
        door.leave(Token(1), ip(1));
        door.leave(Token(2), ip(2));
        assert!(door.half_open.is_empty() && door.sources.is_empty());
    }

    #[test]
    fn one_ipv6_customer_is_one_source_and_mapped_addresses_are_ipv4() {
        let of = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), ip(1));
    }
}
