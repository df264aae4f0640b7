//! From rules to classic BPF.
//!
//! The program first tells the architecture, then finds the call's number by
//! binary search over ranges of numbers that share a verdict. The kernel runs
//! a filter for every call, and once per call number when it is installed, so
//! the depth of the search is what both cost.

use std::collections::BTreeMap;

use sampan_kernel::seccomp::{SeccompProgram, SockFilter};
use sampan_oci::runtime::{Seccomp, SeccompAction, SeccompArg, SeccompOperator, SeccompSyscall};

use super::Error;
use super::table::{Architecture, Table, X32_BIT};

// linux/bpf_common.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_NOT_LESS: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in struct seccomp_data (seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

// linux/seccomp.h
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// Compiles `seccomp` for a process of the machine's own architecture and of
/// those that the profile names besides. Names of calls that no listed
/// architecture has are passed over, as a profile is written for many
/// kernels. Calls that are newer than all that the profile names fail with
/// `ENOSYS` instead of the default error, so that a C library falls back.
///
/// # Errors
/// [`Error`] for actions, architectures or sizes that cannot be compiled.
pub fn compile(seccomp: &Seccomp) -> Result<SeccompProgram, Error> {
    refuse_deadlocks(seccomp)?;
    let architectures = architectures(seccomp)?;
    let table = Table::parse();
    let mut program = vec![instruction(LOAD, ARCHITECTURE)];
    for architecture in architectures.iter().filter(|a| **a != Architecture::X32) {
        let with_x32 =
            *architecture == Architecture::X86_64 && architectures.contains(&Architecture::X32);
        let mut body = vec![instruction(LOAD, NUMBER)];
        let ranges = ranges(seccomp, *architecture, with_x32, &table)?;
        body.extend(search(&ranges));
        // Over the whole section when the architecture is another one. A
        // conditional jump reaches 255 instructions, this one all.
        program.push(jump(IF_EQUAL, architecture.audit(), 1, 0));
        program.push(instruction(JUMP, length(&body)));
        program.append(&mut body);
    }
    program.push(instruction(RETURN, KILL_PROCESS));
    if program.len() > LONGEST {
        return Err(Error::TooLong(program.len()));
    }
    let program = SeccompProgram::new(program, flags(seccomp)?);
    Ok(if asks(seccomp) {
        program.with_listener()
    } else {
        program
    })
}

/// Whether an agent is to be asked about some call.
fn asks(seccomp: &Seccomp) -> bool {
    seccomp
        .syscalls
        .iter()
        .any(|rule| rule.action == SeccompAction::Notify)
}

/// The process tells of the agent's descriptor by write, under the filter already.
fn refuse_deadlocks(seccomp: &Seccomp) -> Result<(), Error> {
    if seccomp.default_action == SeccompAction::Notify {
        return Err(Error::NotifyAll);
    }
    let mut asked = seccomp
        .syscalls
        .iter()
        .filter(|rule| rule.action == SeccompAction::Notify)
        .flat_map(|rule| &rule.names);
    match asked.find(|name| name.as_str() == "write") {
        Some(name) => Err(Error::NotifyCall(name.clone())),
        None => Ok(()),
    }
}

/// The flags of seccomp(2) by the names of the runtime specification.
fn flags(seccomp: &Seccomp) -> Result<u32, Error> {
    seccomp.flags.iter().try_fold(0, |flags, name| {
        let flag = match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => 1,
            "SECCOMP_FILTER_FLAG_LOG" => 2,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
            // It says how an agent is waited for, and the kernel wants one then.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" if asks(seccomp) => 1 << 5,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 0,
            _ => return Err(Error::UnknownFlag(name.clone())),
        };
        Ok(flags | flag)
    })
}

/// Architectures of other machines than those of the table.
const ELSEWHERE: [&str; 17] = [
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
];

/// The machine's own architecture and those listed, each once.
fn architectures(seccomp: &Seccomp) -> Result<Vec<Architecture>, Error> {
    let mut found = vec![Architecture::NATIVE];
    for name in &seccomp.architectures {
        let Some(architecture) = Architecture::from_scmp(name) else {
            if ELSEWHERE.contains(&name.as_str()) {
                // No process of this machine is ever one of these.
                continue;
            }
            return Err(Error::UnknownArchitecture(name.clone()));
        };
        if !found.contains(&architecture) {
            found.push(architecture);
        }
    }
    Ok(found)
}

/// What is done with the calls from `start` up to the next range.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Range {
    start: u32,
    verdict: Vec<SockFilter>,
}

/// The ranges over all 2^32 numbers for one architecture, sorted, the first
/// starting at 0.
fn ranges(
    seccomp: &Seccomp,
    architecture: Architecture,
    with_x32: bool,
    table: &Table,
) -> Result<Vec<Range>, Error> {
    let default = returned(seccomp.default_action, seccomp.default_errno_ret)?;
    let mut verdicts = BTreeMap::new();
    let mut sections = vec![(architecture, 0)];
    if with_x32 {
        sections.push((Architecture::X32, X32_BIT));
    }
    for (section, bit) in sections {
        let mut newest = 0;
        for (number, rules) in rules_by_number(seccomp, section, table) {
            newest = newest.max(number);
            verdicts.insert(number | bit, verdict(&rules, default)?);
        }
        if seccomp.default_action == SeccompAction::Errno {
            // ARM's private calls lie far above; what is between is unknown.
            let newest = newest.min(0xffff);
            verdicts
                .entry((newest + 1) | bit)
                .or_insert_with(|| vec![instruction(RETURN, ERRNO | ENOSYS)]);
        }
    }
    let unknown = vec![instruction(RETURN, default)];
    let enosys = vec![instruction(RETURN, ERRNO | ENOSYS)];
    let mut out = vec![Range {
        start: 0,
        verdict: unknown.clone(),
    }];
    let mut push = |start: u32, verdict: Vec<SockFilter>| {
        let last = out.last_mut().expect("the range from 0 is there");
        if last.start == start {
            last.verdict = verdict;
        } else if last.verdict != verdict {
            out.push(Range { start, verdict });
        }
    };
    let mut next = 0;
    for (number, verdict) in verdicts {
        if number > next {
            push(next, unknown.clone());
        }
        let open_ended = verdict == enosys;
        push(number, verdict);
        // The range of too new calls goes on to the next section.
        next = if open_ended { u32::MAX } else { number + 1 };
        if open_ended && number < X32_BIT {
            next = X32_BIT;
        }
    }
    if next != u32::MAX {
        push(next, unknown);
    }
    Ok(merge_first(out))
}

/// Drops a second range that decides as the first does.
fn merge_first(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.dedup_by(|later, earlier| later.verdict == earlier.verdict);
    ranges
}

/// The rules for each call that `architecture` has, in the profile's order.
fn rules_by_number<'a>(
    seccomp: &'a Seccomp,
    architecture: Architecture,
    table: &Table,
) -> BTreeMap<u32, Vec<&'a SeccompSyscall>> {
    let mut out: BTreeMap<u32, Vec<&SeccompSyscall>> = BTreeMap::new();
    for rule in &seccomp.syscalls {
        for name in &rule.names {
            if let Some(number) = table.number(architecture, name) {
                out.entry(number).or_default().push(rule);
            }
        }
    }
    out
}

/// The code that decides on one call: rules with conditions first, in order,
/// then the first without, else the default.
fn verdict(rules: &[&SeccompSyscall], default: u32) -> Result<Vec<SockFilter>, Error> {
    let mut code = Vec::new();
    for rule in rules.iter().filter(|rule| !rule.args.is_empty()) {
        let action = returned(rule.action, rule.errno_ret)?;
        for alternative in alternatives(&rule.args) {
            code.extend(conditional(&alternative, action)?);
        }
    }
    let last = match rules.iter().find(|rule| rule.args.is_empty()) {
        Some(rule) => returned(rule.action, rule.errno_ret)?,
        None => default,
    };
    code.push(instruction(RETURN, last));
    Ok(code)
}

/// Conditions on different arguments must all hold. Where one argument is
/// named twice each condition stands for itself, as runc has it.
fn alternatives(args: &[SeccompArg]) -> Vec<Vec<&SeccompArg>> {
    let twice = args
        .iter()
        .enumerate()
        .any(|(at, arg)| args[..at].iter().any(|earlier| earlier.index == arg.index));
    if twice {
        args.iter().map(|arg| vec![arg]).collect()
    } else {
        vec![args.iter().collect()]
    }
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum Target {
    /// The next instruction.
    Next,
    /// That many instructions further on.
    Skip(u8),
    /// Behind the rule: it does not hold.
    Fail,
}

struct Step {
    code: u16,
    value: u32,
    when_true: Target,
    when_false: Target,
}

/// Code that returns `action` when all conditions hold and else runs past its
/// own end.
fn conditional(conditions: &[&SeccompArg], action: u32) -> Result<Vec<SockFilter>, Error> {
    let mut steps = Vec::new();
    for condition in conditions {
        compare(condition, &mut steps)?;
    }
    steps.push(step(RETURN, action));
    let end = steps.len();
    let resolved = steps.iter().enumerate().map(|(at, step)| {
        let offset = |target| match target {
            Target::Next => 0,
            Target::Skip(count) => count,
            Target::Fail => u8::try_from(end - at - 1).expect("six conditions are short"),
        };
        jump(
            step.code,
            step.value,
            offset(step.when_true),
            offset(step.when_false),
        )
    });
    Ok(resolved.collect())
}

/// Compares one 64-bit argument in two halves.
fn compare(condition: &SeccompArg, steps: &mut Vec<Step>) -> Result<(), Error> {
    if condition.index > 5 {
        return Err(Error::BadArgument(condition.index));
    }
    let low_offset = ARGUMENTS + 8 * condition.index;
    let (low, high) = if cfg!(target_endian = "little") {
        (low_offset, low_offset + 4)
    } else {
        (low_offset + 4, low_offset)
    };
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (value_high, value_low) = halves(condition.value);
    let branch = |code, value, when_true, when_false| Step {
        code,
        value,
        when_true,
        when_false,
    };
    use Target::{Fail, Next, Skip};
    steps.push(step(LOAD, high));
    match condition.op {
        SeccompOperator::Equal => {
            steps.push(branch(IF_EQUAL, value_high, Next, Fail));
            steps.push(step(LOAD, low));
            steps.push(branch(IF_EQUAL, value_low, Next, Fail));
        }
        SeccompOperator::NotEqual => {
            steps.push(branch(IF_EQUAL, value_high, Next, Skip(2)));
            steps.push(step(LOAD, low));
            steps.push(branch(IF_EQUAL, value_low, Fail, Next));
        }
        SeccompOperator::MaskedEqual => {
            let (wanted_high, wanted_low) = halves(condition.value_two);
            steps.push(step(AND, value_high));
            steps.push(branch(IF_EQUAL, wanted_high, Next, Fail));
            steps.push(step(LOAD, low));
            steps.push(step(AND, value_low));
            steps.push(branch(IF_EQUAL, wanted_low, Next, Fail));
        }
        SeccompOperator::Greater | SeccompOperator::GreaterOrEqual => {
            let last = if condition.op == SeccompOperator::Greater {
                IF_GREATER
            } else {
                IF_NOT_LESS
            };
            steps.push(branch(IF_GREATER, value_high, Skip(3), Next));
            steps.push(branch(IF_EQUAL, value_high, Next, Fail));
            steps.push(step(LOAD, low));
            steps.push(branch(last, value_low, Next, Fail));
        }
        SeccompOperator::Less | SeccompOperator::LessOrEqual => {
            let last = if condition.op == SeccompOperator::Less {
                IF_NOT_LESS
            } else {
                IF_GREATER
            };
            steps.push(branch(IF_GREATER, value_high, Fail, Next));
            steps.push(branch(IF_EQUAL, value_high, Next, Skip(2)));
            steps.push(step(LOAD, low));
            steps.push(branch(last, value_low, Fail, Next));
        }
    }
    Ok(())
}

/// A binary search over sorted ranges; every path ends in a return.
fn search(ranges: &[Range]) -> Vec<SockFilter> {
    let [only] = ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let border = right[0].start;
        let (left, right) = (search(left), search(right));
        let mut code = match u8::try_from(left.len()) {
            Ok(near) => vec![jump(IF_NOT_LESS, border, near, 0)],
            Err(_) => vec![
                jump(IF_NOT_LESS, border, 0, 1),
                instruction(JUMP, length(&left)),
            ],
        };
        code.extend(left);
        code.extend(right);
        return code;
    };
    only.verdict.clone()
}

/// The filter's return value for an action.
fn returned(action: SeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    let data = errno.unwrap_or(EPERM);
    if data > 0xffff {
        return Err(Error::BadErrno(data));
    }
    match action {
        SeccompAction::KillThread => Ok(KILL_THREAD),
        SeccompAction::KillProcess => Ok(KILL_PROCESS),
        SeccompAction::Trap => Ok(TRAP),
        SeccompAction::Errno => Ok(ERRNO | data),
        SeccompAction::Trace => Ok(TRACE | data),
        SeccompAction::Log => Ok(LOG),
        SeccompAction::Allow => Ok(ALLOW),
        SeccompAction::Notify => Ok(NOTIFY),
    }
}

fn length(code: &[SockFilter]) -> u32 {
    u32::try_from(code.len()).expect("programs are bounded by the kernel's limit")
}

fn step(code: u16, value: u32) -> Step {
    Step {
        code,
        value,
        when_true: Target::Next,
        when_false: Target::Next,
    }
}

fn instruction(code: u16, value: u32) -> SockFilter {
    jump(code, value, 0, 0)
}

fn jump(code: u16, value: u32, when_true: u8, when_false: u8) -> SockFilter {
    SockFilter {
        code,
        jt: when_true,
        jf: when_false,
        k: value,
    }
}
