//! Device rules: text for v1's `devices.allow` and `devices.deny`, an eBPF
//! program for v2. On both the last rule that matches decides.

use sampan_kernel::bpf::Instruction;
use sampan_oci::runtime::DeviceRule;

use crate::Error;

/// `access` bits of `struct bpf_cgroup_dev_ctx` (linux/bpf.h).
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ANY: i32 = MKNOD | READ | WRITE;

/// The file and the line that tell a v1 hierarchy about `rule`.
pub(crate) fn v1_line(rule: &DeviceRule) -> Result<(&'static str, String), Error> {
    access_bits(rule)?;
    let file = if rule.allow {
        "devices.allow"
    } else {
        "devices.deny"
    };
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".into(), |n| n.to_string());
    let kind = kind(rule)?;
    let line = match kind {
        None => "a".to_owned(),
        Some(kind) => {
            let kind = if kind == Kind::Block { 'b' } else { 'c' };
            let access = rule.access.as_deref().unwrap_or("rwm");
            format!(
                "{kind} {}:{} {access}",
                number(rule.major),
                number(rule.minor)
            )
        }
    };
    Ok((file, line))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Block = 1,
    Character = 2,
}

/// The kind of device that a rule speaks of, `None` for all.
fn kind(rule: &DeviceRule) -> Result<Option<Kind>, Error> {
    match rule.kind.as_deref() {
        None | Some("" | "a") => Ok(None),
        Some("b") => Ok(Some(Kind::Block)),
        Some("c" | "u") => Ok(Some(Kind::Character)),
        Some(other) => Err(Error::InvalidLimit(format!(
            "{other:?} is not a type of device: use a, b or c"
        ))),
    }
}

fn access_bits(rule: &DeviceRule) -> Result<i32, Error> {
    let Some(access) = rule.access.as_deref().filter(|access| !access.is_empty()) else {
        return Ok(ANY);
    };
    access.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        _ => Err(Error::InvalidLimit(format!(
            "invalid device access {access:?}: it is made of r, w and m"
        ))),
    })
}

const R0: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_WORD: u8 = 0x61;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const MOVE_32: u8 = 0xbc;
const MOVE_IMMEDIATE: u8 = 0xb7;
const JUMP_NOT_EQUAL_32: u8 = 0x56;
const JUMP_EQUAL_32: u8 = 0x16;
const EXIT: u8 = 0x95;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    }
}

/// Compiles `rules` for a v2 cgroup. Access that no rule speaks of is allowed,
/// as on v1, where a new cgroup starts with its parent's rights.
///
/// # Errors
/// [`Error::InvalidLimit`] for a rule that makes no sense.
pub(crate) fn v2_program(rules: &[DeviceRule]) -> Result<Vec<Instruction>, Error> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(AND_32, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let block = rule_block(rule)?;
        let conditional = block.iter().any(is_jump);
        program.extend(block);
        if !conditional {
            // The verifier refuses code that cannot be reached.
            return Ok(program);
        }
    }
    program.push(instruction(MOVE_IMMEDIATE, R0, 0, 0, 1));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    Ok(program)
}

fn is_jump(instruction: &Instruction) -> bool {
    matches!(instruction.code, JUMP_NOT_EQUAL_32 | JUMP_EQUAL_32)
}

/// The instructions of one rule: conditions that jump behind the block, then
/// the verdict.
fn rule_block(rule: &DeviceRule) -> Result<Vec<Instruction>, Error> {
    let mut block = Vec::new();
    let kind = kind(rule)?;
    if let Some(kind) = kind {
        block.push(instruction(JUMP_NOT_EQUAL_32, KIND, 0, 0, kind as i32));
    }
    let access = access_bits(rule)?;
    if access != ANY {
        block.push(instruction(MOVE_32, R0, ACCESS, 0, 0));
        if rule.allow {
            // Every wanted right must be among those allowed.
            block.push(instruction(AND_32, R0, 0, 0, ANY & !access));
            block.push(instruction(JUMP_NOT_EQUAL_32, R0, 0, 0, 0));
        } else {
            block.push(instruction(AND_32, R0, 0, 0, access));
            block.push(instruction(JUMP_EQUAL_32, R0, 0, 0, 0));
        }
    }
    if kind.is_some() {
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number.filter(|number| *number >= 0) {
                let number = u32::try_from(number).map_err(|_| {
                    Error::InvalidLimit(format!("device number {number} is out of range"))
                })?;
                block.push(instruction(
                    JUMP_NOT_EQUAL_32,
                    register,
                    0,
                    0,
                    number.cast_signed(),
                ));
            }
        }
    }
    block.push(instruction(MOVE_IMMEDIATE, R0, 0, 0, i32::from(rule.allow)));
    block.push(instruction(EXIT, 0, 0, 0, 0));
    let length = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if is_jump(instruction) {
            instruction.offset = i16::try_from(length - at - 1).expect("a block is short");
        }
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, text: &str) -> DeviceRule {
        let mut words = text.split(' ');
        let kind = words.next().map(str::to_owned);
        let mut numbers = words.next().unwrap_or("*:*").split(':');
        let mut number = || numbers.next().and_then(|n| n.parse().ok());
        DeviceRule {
            allow,
            kind,
            major: number(),
            minor: number(),
            access: words.next().map(str::to_owned),
        }
    }

    /// Interprets a program as the kernel would.
    fn decide(program: &[Instruction], kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let mut registers = [0i32; 6];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let destination = usize::from(i.registers & 0xf);
            let source = usize::from(i.registers >> 4);
            at += 1;
            match i.code {
                LOAD_WORD => {
                    registers[destination] =
                        [access << 16 | kind, major, minor][usize::try_from(i.offset).unwrap() / 4];
                }
                AND_32 => registers[destination] &= i.immediate,
                SHIFT_RIGHT_32 => registers[destination] >>= i.immediate,
                MOVE_32 => registers[destination] = registers[source],
                MOVE_IMMEDIATE => registers[destination] = i.immediate,
                JUMP_NOT_EQUAL_32 if registers[destination] != i.immediate => {
                    at += usize::try_from(i.offset).unwrap();
                }
                JUMP_EQUAL_32 if registers[destination] == i.immediate => {
                    at += usize::try_from(i.offset).unwrap();
                }
                JUMP_NOT_EQUAL_32 | JUMP_EQUAL_32 => {}
                EXIT => return registers[0] == 1,
                code => panic!("unknown code {code:#x}"),
            }
        }
    }

    #[test]
    fn the_last_matching_rule_decides() {
        let rules = [
            rule(false, "a"),
            rule(true, "c *:* m"),
            rule(true, "c 1:3 rwm"),
            rule(true, "c 136:* rw"),
            rule(false, "c 136:7 w"),
        ];
        let program = v2_program(&rules).unwrap();
        let character = |major, minor, access| decide(&program, 2, major, minor, access);
        assert!(character(1, 3, READ | WRITE));
        assert!(character(8, 0, MKNOD));
        assert!(!character(8, 0, READ));
        assert!(!character(8, 0, READ | MKNOD));
        assert!(character(136, 9, READ | WRITE));
        assert!(!character(136, 7, READ | WRITE));
        assert!(character(136, 7, READ));
        assert!(!decide(&program, 1, 1, 3, READ));
    }

    #[test]
    fn v1_lines_follow_the_kernels_form() {
        let line = |allow, text| v1_line(&rule(allow, text)).unwrap();
        assert_eq!(line(false, "a"), ("devices.deny", "a".into()));
        assert_eq!(
            line(true, "c 5:1 rwm"),
            ("devices.allow", "c 5:1 rwm".into())
        );
        assert_eq!(line(true, "b 8:* r"), ("devices.allow", "b 8:* r".into()));
        assert!(v1_line(&rule(true, "c 1:3 rx")).is_err());
        assert!(v1_line(&rule(true, "z 1:3 r")).is_err());
    }
}
