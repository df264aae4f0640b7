//! Owners in an archive that stand for others among the files.

/// Ids that follow each other and those in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerRange {
    /// The first to be replaced.
    pub from: u32,
    /// The first in its place.
    pub to: u32,
    /// How many there are.
    pub count: u32,
}

/// Which owners take the place of others. One without ranges changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerMap {
    /// Of users.
    pub users: Vec<OwnerRange>,
    /// Of groups.
    pub groups: Vec<OwnerRange>,
}

/// The id in the place of one that nothing is said of.
const NOBODY: u32 = 65_534;

impl OwnerMap {
    /// The user and the group in the place of these.
    pub fn map(&self, (user, group): (u32, u32)) -> (u32, u32) {
        (replaced(&self.users, user), replaced(&self.groups, group))
    }
}

fn replaced(ranges: &[OwnerRange], id: u32) -> u32 {
    if ranges.is_empty() {
        return id;
    }
    let found = ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.from)?;
        (offset < range.count).then(|| range.to + offset)
    });
    found.unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_replaced_where_something_is_said_of_them() {
        let range = OwnerRange {
            from: 0,
            to: 1000,
            count: 10,
        };
        let map = OwnerMap {
            users: vec![range],
            groups: Vec::new(),
        };
        assert_eq!(map.map((3, 3)), (1003, 3));
        assert_eq!(map.map((10, 3)), (NOBODY, 3));
    }
}
