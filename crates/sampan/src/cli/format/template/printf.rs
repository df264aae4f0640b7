//! Go's `print`, `println` and `printf`.

use std::iter::Peekable;
use std::str::Chars;

use crate::cli::format::data::{Data, Nil};
use crate::cli::format::quote::quote;

/// No width or precision beyond this is honoured.
const WIDTH: usize = 10_000;

/// `fmt.Sprint`: blanks between operands when neither is a text.
pub(super) fn print(values: &[Data]) -> String {
    let mut out = String::new();
    for (position, value) in values.iter().enumerate() {
        let text = matches!(value, Data::Text(_));
        if position > 0 && !text && !matches!(values[position - 1], Data::Text(_)) {
            out.push(' ');
        }
        out.push_str(&operand(value));
    }
    out
}

/// `fmt.Sprintln`: blanks between all operands.
pub(super) fn println(values: &[Data]) -> String {
    let words: Vec<String> = values.iter().map(operand).collect();
    words.join(" ") + "\n"
}

/// A nil operand is `<nil>` here, unlike in a pipeline's end.
fn operand(value: &Data) -> String {
    match value {
        Data::Nil(Nil::Unknown) => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

#[derive(Default)]
struct Verb {
    left: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    blank: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// `fmt.Sprintf`.
pub(super) fn printf(format: &str, values: &[Data]) -> String {
    let mut out = String::new();
    let mut values_left = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | '#' | '0' | ' ')) {
            match flag {
                '-' => verb.left = true,
                '+' => verb.plus = true,
                '#' => verb.sharp = true,
                '0' => verb.zero = true,
                _ => verb.blank = true,
            }
        }
        verb.width = number(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(&mut chars).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match values_left.next() {
                None => out.push_str(&format!("%!{letter}(MISSING)")),
                Some(value) => out.push_str(&verb.apply(letter, value)),
            },
        }
    }
    let extra: Vec<String> = values_left
        .map(|value| format!("{}={}", super::call::type_name(value), operand(value)))
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn number(chars: &mut Peekable<Chars<'_>>) -> Option<usize> {
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    digits.parse::<usize>().ok().map(|number| number.min(WIDTH))
}

impl Verb {
    fn apply(&self, letter: char, value: &Data) -> String {
        let value = match (letter, value) {
            ('v' | 's', shown) => shown,
            (_, shown) => shown.plain(),
        };
        let body = match (letter, value) {
            ('v', Data::Text(text)) if self.sharp => quote(text),
            ('v', value) => operand(value),
            ('s', Data::Text(text)) => self.cut(text),
            ('s', Data::List(items)) => {
                let items: Vec<String> = items.iter().map(|item| self.apply('s', item)).collect();
                return format!("[{}]", items.join(" "));
            }
            ('s', value @ (Data::Object(_) | Data::Shown(..) | Data::Nil(_))) => operand(value),
            ('q', Data::Text(text)) => quote(&self.cut(text)),
            ('q', Data::List(items)) => {
                let items: Vec<String> = items.iter().map(|item| self.apply('q', item)).collect();
                return format!("[{}]", items.join(" "));
            }
            ('d', Data::Int(number)) => self.signed(*number, &number.unsigned_abs().to_string()),
            ('x', Data::Int(number)) => {
                self.signed(*number, &format!("{:x}", number.unsigned_abs()))
            }
            ('X', Data::Int(number)) => {
                self.signed(*number, &format!("{:X}", number.unsigned_abs()))
            }
            ('o', Data::Int(number)) => {
                self.signed(*number, &format!("{:o}", number.unsigned_abs()))
            }
            ('b', Data::Int(number)) => {
                self.signed(*number, &format!("{:b}", number.unsigned_abs()))
            }
            ('c', Data::Int(number)) => u32::try_from(*number)
                .ok()
                .and_then(char::from_u32)
                .unwrap_or('\u{fffd}')
                .to_string(),
            ('x', Data::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('X', Data::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
            ('f' | 'F', Data::Float(number)) => {
                format!("{number:.*}", self.precision.unwrap_or(6))
            }
            ('g', value @ Data::Float(_)) => value.to_string(),
            ('e', Data::Float(number)) => format!("{number:.*e}", self.precision.unwrap_or(6)),
            ('t', Data::Bool(value)) => value.to_string(),
            ('T', value) => super::call::type_name(value).to_owned(),
            (letter, value) => {
                return format!(
                    "%!{letter}({}={})",
                    super::call::type_name(value),
                    operand(value)
                );
            }
        };
        self.pad(&body, matches!(value, Data::Int(_) | Data::Float(_)))
    }

    fn cut(&self, text: &str) -> String {
        text.chars()
            .take(self.precision.unwrap_or(usize::MAX))
            .collect()
    }

    fn signed(&self, number: i128, digits: &str) -> String {
        let sign = match number {
            ..0 => "-",
            _ if self.plus => "+",
            _ if self.blank => " ",
            _ => "",
        };
        format!("{sign}{digits}")
    }

    fn pad(&self, body: &str, number: bool) -> String {
        let length = body.chars().count();
        let Some(missing) = self.width.and_then(|width| width.checked_sub(length)) else {
            return body.to_owned();
        };
        if self.left {
            return format!("{body}{}", " ".repeat(missing));
        }
        if self.zero && number {
            let digits = body.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or(0);
            let (sign, digits) = body.split_at(digits);
            return format!("{sign}{}{digits}", "0".repeat(missing));
        }
        format!("{}{body}", " ".repeat(missing))
    }
}
