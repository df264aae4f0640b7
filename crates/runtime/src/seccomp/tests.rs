//! The compiled program against a direct reading of the rules, by an
//! interpreter of classic BPF.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sampan_kernel::seccomp::{SeccompProgram, SockFilter};
use sampan_oci::runtime::{Seccomp, SeccompAction, SeccompArg, SeccompOperator, SeccompSyscall};
use sampan_oci::seccomp::{Circumstances, Profile};

use super::compile;
use super::table::{Architecture, Table, X32_BIT};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

struct Call {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

fn run(program: &SeccompProgram, call: &Call) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.architecture,
        _ => {
            let at = offset - 16;
            let argument = call.arguments[at as usize / 8];
            if at.is_multiple_of(8) {
                argument as u32
            } else {
                (argument >> 32) as u32
            }
        }
    };
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let SockFilter { code, jt, jf, k } = program.instructions()[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x06 => return k,
            _ => panic!("unknown code {code:#x}"),
        }
    }
}

fn default_program(capabilities: &[&str]) -> SeccompProgram {
    let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    let seccomp = Profile::docker_default().resolve(&Circumstances {
        capabilities: &capabilities,
        architecture: if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        },
        kernel: (6, 1),
    });
    compile(&seccomp).unwrap()
}

fn call(architecture: Architecture, name: &str, arguments: &[u64]) -> Call {
    let number = Table::parse().number(architecture, name).unwrap();
    let bit = if architecture == Architecture::X32 {
        X32_BIT
    } else {
        0
    };
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Call {
        architecture: architecture.audit(),
        number: number | bit,
        arguments: all,
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn dockers_profile_decides_as_written() {
    use Architecture::{X32, X86, X86_64};
    let plain = default_program(&[]);
    let admin = default_program(&["CAP_SYS_ADMIN"]);
    let cases = [
        (X86_64, "read", &[][..], ALLOW, ALLOW),
        (X86, "read", &[], ALLOW, ALLOW),
        (X32, "read", &[], ALLOW, ALLOW),
        (X86_64, "mount", &[], EPERM, ALLOW),
        (X86, "mount", &[], EPERM, ALLOW),
        (X86_64, "keyctl", &[], EPERM, EPERM),
        (X86_64, "clone3", &[], ENOSYS, ALLOW),
        (X86_64, "clone", &[0x1200_0011], EPERM, ALLOW),
        (X86_64, "clone", &[0x0120_0011], ALLOW, ALLOW),
        (X86_64, "socket", &[2], ALLOW, ALLOW),
        (X86_64, "socket", &[38], EPERM, EPERM),
        (X86_64, "socket", &[39], ALLOW, ALLOW),
        (X86_64, "socket", &[40], EPERM, EPERM),
        (X86_64, "personality", &[0xffff_ffff], ALLOW, ALLOW),
        (X86_64, "personality", &[4], EPERM, EPERM),
        (X86_64, "ptrace", &[], ALLOW, ALLOW),
    ];
    for (architecture, name, arguments, as_plain, as_admin) in cases {
        let call = call(architecture, name, arguments);
        assert_eq!(
            run(&plain, &call),
            as_plain,
            "{name} {arguments:?} {architecture:?}"
        );
        assert_eq!(
            run(&admin, &call),
            as_admin,
            "{name} {arguments:?} {architecture:?}"
        );
    }
}

#[test]
fn calls_of_the_future_and_of_other_machines_are_told_apart() {
    let program = default_program(&[]);
    let native = Architecture::NATIVE.audit();
    let verdict = |architecture, number| {
        run(
            &program,
            &Call {
                architecture,
                number,
                arguments: [0; 6],
            },
        )
    };
    assert_eq!(verdict(native, 0xffff), ENOSYS);
    assert_eq!(verdict(0x1234, 1), KILL);
}

#[test]
fn the_program_stays_small() {
    // Three architectures of some 80 ranges each; the kernel takes 4,096.
    assert!(default_program(&[]).instructions().len() < 800);
}

fn holds(condition: &SeccompArg, argument: u64) -> bool {
    match condition.op {
        SeccompOperator::NotEqual => argument != condition.value,
        SeccompOperator::Less => argument < condition.value,
        SeccompOperator::LessOrEqual => argument <= condition.value,
        SeccompOperator::Equal => argument == condition.value,
        SeccompOperator::GreaterOrEqual => argument >= condition.value,
        SeccompOperator::Greater => argument > condition.value,
        SeccompOperator::MaskedEqual => argument & condition.value == condition.value_two,
    }
}

/// Reads the rules one after the other.
fn expected(seccomp: &Seccomp, name: &str, arguments: &[u64; 6]) -> u32 {
    let value = |action, errno: Option<u32>| match action {
        SeccompAction::Allow => ALLOW,
        SeccompAction::Errno => 0x0005_0000 | errno.unwrap_or(1),
        _ => unreachable!("the strategy makes no other"),
    };
    let named = || {
        seccomp
            .syscalls
            .iter()
            .filter(|rule| rule.names.iter().any(|n| n == name))
    };
    for rule in named().filter(|rule| !rule.args.is_empty()) {
        let indexes: BTreeSet<u32> = rule.args.iter().map(|arg| arg.index).collect();
        let mut each = rule
            .args
            .iter()
            .map(|arg| holds(arg, arguments[arg.index as usize]));
        let matches = if indexes.len() == rule.args.len() {
            each.all(|holds| holds)
        } else {
            each.any(|holds| holds)
        };
        if matches {
            return value(rule.action, rule.errno_ret);
        }
    }
    match named().find(|rule| rule.args.is_empty()) {
        Some(rule) => value(rule.action, rule.errno_ret),
        None => value(seccomp.default_action, seccomp.default_errno_ret),
    }
}

const NAMES: [&str; 8] = [
    "read", "write", "openat", "close", "mmap", "clone", "socket", "mseal",
];

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        Just(1 << 32),
        (1u64 << 32)..(1 << 32) + 3,
        any::<u64>()
    ]
}

fn condition() -> impl Strategy<Value = SeccompArg> {
    let operator = prop_oneof![
        Just(SeccompOperator::NotEqual),
        Just(SeccompOperator::Less),
        Just(SeccompOperator::LessOrEqual),
        Just(SeccompOperator::Equal),
        Just(SeccompOperator::GreaterOrEqual),
        Just(SeccompOperator::Greater),
        Just(SeccompOperator::MaskedEqual),
    ];
    (0u32..6, number(), number(), operator).prop_map(|(index, value, value_two, op)| SeccompArg {
        index,
        value,
        value_two,
        op,
    })
}

fn action() -> impl Strategy<Value = (SeccompAction, Option<u32>)> {
    prop_oneof![
        Just((SeccompAction::Allow, None)),
        (1u32..40).prop_map(|errno| (SeccompAction::Errno, Some(errno))),
    ]
}

fn profile() -> impl Strategy<Value = Seccomp> {
    let rule = (
        prop::sample::subsequence(NAMES.to_vec(), 1..4),
        action(),
        prop::collection::vec(condition(), 0..4),
    );
    let rules = prop::collection::vec(rule, 0..12);
    (action(), rules).prop_map(|((default_action, default_errno_ret), rules)| Seccomp {
        default_action,
        default_errno_ret,
        syscalls: rules
            .into_iter()
            .map(|(names, (action, errno_ret), args)| SeccompSyscall {
                names: names.iter().map(ToString::to_string).collect(),
                action,
                errno_ret,
                args,
            })
            .collect(),
        ..Seccomp::default()
    })
}

proptest! {
    #[test]
    fn any_profile_decides_as_its_rules_read(
        seccomp in profile(),
        name in prop::sample::select(NAMES.to_vec()),
        arguments in prop::array::uniform6(number()),
    ) {
        let program = compile(&seccomp).unwrap();
        let number = Table::parse().number(Architecture::NATIVE, name).unwrap();
        let named_at_all = seccomp.syscalls.iter().any(|r| r.names.iter().any(|n| n == name));
        let got = run(&program, &Call { architecture: Architecture::NATIVE.audit(), number, arguments });
        let want = expected(&seccomp, name, &arguments);
        // A call above all that are named counts as one of the future.
        prop_assert!(got == want || (!named_at_all && got == ENOSYS), "{got:#x} {want:#x}");
    }
}
