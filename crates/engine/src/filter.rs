//! System call filters, compiled once for all containers that have the same.
//!
//! Compiling takes a shim about a millisecond, and most containers have the default filter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_oci::runtime::{Seccomp, Spec};
use sampan_shim_protocol::{Bytes, Filter};

/// So many different filters are kept.
const KEPT: usize = 8;

/// The filters that were used last.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// Rules and what they compile to, the last used first.
    known: Mutex<VecDeque<Arc<(Seccomp, Filter)>>>,
}

impl Filters {
    /// Takes the filter out of a specification and returns it compiled. One that cannot be compiled
    /// stays, for the shim to say what is wrong with it.
    pub(crate) fn take(&self, spec: &mut Spec) -> Option<Filter> {
        let section = &mut spec.linux.as_mut()?.seccomp;
        let rules = section.take()?;
        let known = self.find(&rules);
        let filter = known.or_else(|| self.compile(&rules));
        if filter.is_none() {
            *section = Some(rules);
        }
        filter
    }

    fn find(&self, rules: &Seccomp) -> Option<Filter> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.iter().position(|entry| entry.0 == *rules)?;
        let entry = known.remove(at)?;
        known.push_front(entry.clone());
        Some(entry.1.clone())
    }

    fn compile(&self, rules: &Seccomp) -> Option<Filter> {
        let program = sampan_runtime::seccomp::compile(rules).ok()?;
        let filter = Filter {
            instructions: Bytes(program.to_bytes()),
            flags: program.flags(),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push_front(Arc::new((rules.clone(), filter.clone())));
        known.truncate(KEPT);
        Some(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_oci::runtime::{Linux, SeccompAction};

    fn spec(rules: Seccomp) -> Spec {
        Spec {
            linux: Some(Linux {
                seccomp: Some(rules),
                ..Linux::default()
            }),
            ..Spec::default()
        }
    }

    #[test]
    fn the_same_rules_are_compiled_once_and_a_few_are_kept() {
        let filters = Filters::default();
        let rules = |number| Seccomp {
            default_action: SeccompAction::Errno,
            default_errno_ret: Some(number),
            ..Seccomp::default()
        };
        let first = filters.take(&mut spec(rules(1)));
        assert!(first.is_some());
        assert_eq!(filters.take(&mut spec(rules(1))), first);
        assert_eq!(filters.known.lock().unwrap().len(), 1);
        for number in 2..20 {
            assert_ne!(filters.take(&mut spec(rules(number))), first);
        }
        assert_eq!(filters.known.lock().unwrap().len(), KEPT);
    }

    #[test]
    fn what_cannot_be_compiled_stays_in_the_specification() {
        let rules = Seccomp {
            flags: vec!["SECCOMP_FILTER_FLAG_FLY".into()],
            ..Seccomp::default()
        };
        let mut spec = spec(rules.clone());
        assert_eq!(Filters::default().take(&mut spec), None);
        assert_eq!(spec.linux.unwrap().seccomp, Some(rules));
    }
}
