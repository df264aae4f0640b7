//! Who asks, and what they may do.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::name::RepositoryName;

/// What can be done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To read.
    Pull,
    /// To add.
    Push,
    /// To remove.
    Delete,
}

impl Right {
    /// All rights.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// Returns the word that tokens have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Names of repositories: `*` stands for anything within one part, `**` for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Whether a repository's name is one of these.
    pub fn matches(&self, name: &str) -> bool {
        // Which beginnings of the name the pattern so far stands for.
        let name = name.as_bytes();
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        let mut pattern = self.0.as_bytes();
        while let Some((first, rest)) = pattern.split_first() {
            if *first != b'*' {
                for end in (0..name.len()).rev() {
                    reached[end + 1] = reached[end] && name[end] == *first;
                }
                reached[0] = false;
                pattern = rest;
                continue;
            }
            let any = rest.first() == Some(&b'*');
            for end in 0..name.len() {
                if reached[end] && (any || name[end] != b'/') {
                    reached[end + 1] = true;
                }
            }
            pattern = if any { &rest[1..] } else { rest };
        }
        reached[name.len()]
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"*/._-".contains(&b);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(fits) {
            return Err(format!("{text:?} can be the name of no repository"));
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `@anyone`, also those who do not say who they are.
    Anyone,
    /// `@authenticated`
    Authenticated,
    /// One user.
    User(Box<str>),
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "@anyone" => Ok(Self::Anyone),
            "@authenticated" => Ok(Self::Authenticated),
            other if other.is_empty() || other.starts_with('@') => {
                Err(serde::de::Error::custom(format!(
                    "{other:?} is nobody: use a user's name, \"@authenticated\" or \"@anyone\""
                )))
            }
            user => Ok(Self::User(user.into())),
        }
    }
}

/// Gives rights; what no rule gives is not allowed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// In which repositories.
    pub repositories: Vec<Pattern>,
    /// To whom.
    pub users: Vec<Subject>,
    /// What.
    pub rights: Vec<Right>,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct Policy(Vec<Rule>);

impl Policy {
    /// Makes a policy of rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Gives everything to these.
    pub fn all_to(subject: Subject) -> Self {
        Self(vec![Rule {
            repositories: vec![Pattern("**".into())],
            users: vec![subject],
            rights: Right::ALL.to_vec(),
        }])
    }

    /// Whether a user, or somebody without a name, may do something.
    pub fn allows(&self, user: Option<&str>, repository: &str, right: Right) -> bool {
        self.0.iter().any(|rule| {
            let for_user = rule.users.iter().any(|subject| match subject {
                Subject::Anyone => true,
                Subject::Authenticated => user.is_some(),
                Subject::User(name) => user == Some(name),
            });
            for_user
                && rule.rights.contains(&right)
                && rule.repositories.iter().any(|p| p.matches(repository))
        })
    }
}

/// What a token is good for: a repository and rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) repository: Box<str>,
    pub(crate) rights: Vec<Right>,
}

/// The rights of whoever sent a request.
#[derive(Clone)]
pub(crate) struct Access {
    user: Option<Arc<str>>,
    policy: Arc<Policy>,
    /// What the client's token is restricted to.
    grants: Option<Arc<[Grant]>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("user", &self.user)
            .field("grants", &self.grants)
            .finish_non_exhaustive()
    }
}

impl Access {
    pub(crate) fn new(user: Option<Arc<str>>, policy: Arc<Policy>) -> Self {
        Self {
            user,
            policy,
            grants: None,
        }
    }

    /// The same, for no more than a token says.
    pub(crate) fn restricted(self, grants: Arc<[Grant]>) -> Self {
        Self {
            grants: Some(grants),
            ..self
        }
    }

    /// The user's name, if the registry knows it.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether a token restricts it.
    pub(crate) fn has_token(&self) -> bool {
        self.grants.is_some()
    }

    /// Whether something may be done.
    pub(crate) fn may(&self, repository: &RepositoryName, right: Right) -> bool {
        let granted = self.grants.as_deref().is_none_or(|grants| {
            grants.iter().any(|grant| {
                *grant.repository == *repository.as_str() && grant.rights.contains(&right)
            })
        });
        granted && self.may_ever(repository.as_str(), right)
    }

    /// Whether something may be done with the right token.
    pub(crate) fn may_ever(&self, repository: &str, right: Right) -> bool {
        self.policy.allows(self.user(), repository, right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes_unless_doubled() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "ab", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("**", "a/b/c", true),
            ("team/*", "team/x", true),
            ("team/*", "team/x/y", false),
            ("team/*", "team", false),
            ("team/**", "team/x/y", true),
            ("team/**", "teams/x", false),
            ("*/base", "x/base", true),
            ("**/base", "x/y/base", true),
            ("a*c", "abc", true),
            ("a*c", "a/c", false),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axc", false),
            ("*a*a*a*a*a*a*a*b", &"a".repeat(200), false),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name), expected, "{pattern:?} {name}");
        }
        assert!("A".parse::<Pattern>().is_err());
        assert!("".parse::<Pattern>().is_err());
    }

    fn rule(repositories: &str, user: Subject, rights: &[Right]) -> Rule {
        Rule {
            repositories: vec![repositories.parse().unwrap()],
            users: vec![user],
            rights: rights.to_vec(),
        }
    }

    #[test]
    fn what_no_rule_gives_is_not_allowed() {
        let policy = Policy::new(vec![
            rule("public/**", Subject::Anyone, &[Right::Pull]),
            rule("public/**", Subject::Authenticated, &[Right::Push]),
            rule("**", Subject::User("root".into()), &Right::ALL),
        ]);
        for (user, repository, right, expected) in [
            (None, "public/a", Right::Pull, true),
            (None, "public/a", Right::Push, false),
            (None, "private/a", Right::Pull, false),
            (Some("alice"), "public/a", Right::Push, true),
            (Some("alice"), "public/a", Right::Delete, false),
            (Some("alice"), "private/a", Right::Pull, false),
            (Some("root"), "private/a", Right::Delete, true),
        ] {
            let allowed = policy.allows(user, repository, right);
            assert_eq!(allowed, expected, "{user:?} {repository} {right:?}");
        }
    }

    #[test]
    fn a_token_never_gives_more_than_the_policy() {
        let policy = Arc::new(Policy::new(vec![rule(
            "a",
            Subject::Anyone,
            &[Right::Pull],
        )]));
        let grants: Arc<[Grant]> = Arc::new([Grant {
            repository: "a".into(),
            rights: Right::ALL.to_vec(),
        }]);
        let access = Access::new(None, policy).restricted(grants);
        let name: RepositoryName = "a".parse().unwrap();
        assert!(access.may(&name, Right::Pull));
        assert!(!access.may(&name, Right::Push));
    }
}
