//! Names for containers that nobody named.

use super::id::ContainerName;

const ADJECTIVES: [&str; 64] = [
    "admiring", "agile", "amber", "apt", "awake", "balmy", "bold", "brave", "breezy", "bright",
    "brisk", "calm", "candid", "clever", "coastal", "cosy", "crisp", "curious", "dapper", "daring",
    "deft", "eager", "easy", "fair", "fearless", "festive", "fluent", "fond", "gentle", "gifted",
    "glad", "golden", "graceful", "happy", "hardy", "honest", "jolly", "keen", "kind", "laughing",
    "lively", "lucid", "lucky", "merry", "mighty", "modest", "nimble", "noble", "patient",
    "pensive", "placid", "quiet", "radiant", "serene", "sharp", "silent", "steady", "sunny",
    "swift", "tidal", "trusting", "vivid", "wise", "zealous",
];

const SURNAMES: [&str; 64] = [
    "archimedes",
    "babbage",
    "banach",
    "bell",
    "bohr",
    "boole",
    "borg",
    "brahe",
    "cannon",
    "cerf",
    "chandrasekhar",
    "cohen",
    "curie",
    "darwin",
    "dijkstra",
    "dirac",
    "easley",
    "einstein",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "franklin",
    "galileo",
    "gauss",
    "goldberg",
    "hamilton",
    "hawking",
    "heisenberg",
    "hertz",
    "hopper",
    "hypatia",
    "jepsen",
    "johnson",
    "kalam",
    "kepler",
    "knuth",
    "kowalevski",
    "lamport",
    "leibniz",
    "liskov",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "napier",
    "newton",
    "noether",
    "pascal",
    "pasteur",
    "perlman",
    "planck",
    "ramanujan",
    "ride",
    "ritchie",
    "shannon",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "wing",
    "zhenyi",
];

/// Draws a name that `is_taken` does not know: six tries, then the short identity.
pub(crate) fn draw(
    short_id: &str,
    random: impl Fn() -> u32,
    is_taken: impl Fn(&ContainerName) -> bool,
) -> String {
    for attempt in 0..6 {
        let adjective = ADJECTIVES[random() as usize % ADJECTIVES.len()];
        let surname = SURNAMES[random() as usize % SURNAMES.len()];
        let mut name = format!("{adjective}_{surname}");
        if attempt > 0 {
            name.push(char::from(b'0' + (random() % 10) as u8));
        }
        if name.parse().is_ok_and(|parsed| !is_taken(&parsed)) {
            return name;
        }
    }
    short_id.to_owned()
}

pub(crate) fn random() -> u32 {
    let mut bytes = [0_u8; 4];
    // A short read only makes the draw less random.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn names_are_an_adjective_and_a_surname() {
        let name = draw("0123456789ab", || 3, |_| false);
        assert_eq!(name, "apt_bell");
        for (adjective, surname) in ADJECTIVES.iter().zip(SURNAMES) {
            assert!(
                format!("{adjective}_{surname}")
                    .parse::<ContainerName>()
                    .is_ok()
            );
        }
    }

    #[test]
    fn taken_names_get_a_digit_and_at_last_the_identity() {
        let tries = Cell::new(0);
        let name = draw(
            "abcdefabcdef",
            || 3,
            |_| {
                tries.set(tries.get() + 1);
                tries.get() == 1
            },
        );
        assert_eq!(name, "apt_bell3");
        assert_eq!(draw("abcdefabcdef", || 3, |_| true), "abcdefabcdef");
    }
}
