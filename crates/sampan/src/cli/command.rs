//! Commands as data: their names, flags, arguments and help.
//!
//! clap takes the words apart; the tables here say what may stand there, and Docker's rules
//! (`--flag=false`, `-it`, options that end at the first argument) are set for all of them at
//! once.

use std::fmt::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};

use super::failure::Failure;
use super::output;
use super::session::Session;
use super::terminal;

/// A command.
pub(crate) struct Command {
    /// Every way to call it, the shown order of aliases: `container ls`, ..., `ps`.
    pub(crate) names: &'static [&'static str],
    /// What follows the name in the usage line.
    pub(crate) usage: &'static str,
    /// One line.
    pub(crate) about: &'static str,
    /// What help says below that line.
    pub(crate) details: &'static str,
    /// Groups of flags.
    pub(crate) flags: &'static [&'static [Flag]],
    /// Docker's flags that do not work yet, by long and short name.
    pub(crate) refused: &'static [(&'static str, Option<char>)],
    /// How many arguments.
    pub(crate) arguments: Arguments,
    /// Whether everything from the first argument on belongs to the arguments.
    pub(crate) trailing: bool,
    /// Left out of lists of commands.
    pub(crate) hidden: bool,
    /// Does it; answers the exit code.
    pub(crate) run: fn(&Session, &Parsed<'_>) -> Result<u8, Failure>,
}

impl Command {
    /// A command without flags, for `..Command::PLAIN`.
    pub(crate) const PLAIN: Self = Self {
        names: &[],
        usage: "",
        about: "",
        details: "",
        flags: &[],
        refused: &[],
        arguments: Arguments::Any,
        trailing: false,
        hidden: false,
        run: |_, _| Ok(0),
    };

    /// The name that lists show.
    pub(crate) fn short_name(&self) -> &'static str {
        self.names.last().copied().unwrap_or_default()
    }

    pub(crate) fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().copied().flatten()
    }
}

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Whatever is given.
    Any,
    /// None.
    None,
    /// So many.
    Exactly(usize),
    /// So many or more.
    AtLeast(usize),
    /// So many or fewer.
    AtMost(usize),
    /// Not fewer than the first and not more than the second.
    Between(usize, usize),
}

impl Arguments {
    /// Docker's sentence about a wrong number, and whether it says `See` or `Run`.
    fn check(self, name: &str, count: usize) -> Result<(), (String, &'static str)> {
        let plural = |number: usize| if number == 1 { "argument" } else { "arguments" };
        match self {
            Self::None if count > 0 => {
                Err((format!("'sampan {name}' accepts no arguments"), "Run"))
            }
            Self::Exactly(number) if count != number => Err((
                format!("'sampan {name}' requires {number} {}", plural(number)),
                "Run",
            )),
            Self::AtLeast(number) if count < number => Err((
                format!(
                    "'sampan {name}' requires at least {number} {}",
                    plural(number)
                ),
                "See",
            )),
            Self::AtMost(number) if count > number => Err((
                format!(
                    "'sampan {name}' requires at most {number} {}",
                    plural(number)
                ),
                "Run",
            )),
            Self::Between(least, most) if !(least..=most).contains(&count) => Err((
                format!(
                    "'sampan {name}' requires at least {least} and at most {most} {}",
                    plural(most)
                ),
                "Run",
            )),
            _ => Ok(()),
        }
    }
}

/// A flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    long: &'static str,
    short: Option<char>,
    value: Value,
    help: &'static str,
    default: &'static str,
    hidden: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Switch,
    One(&'static str),
    Many(&'static str),
}

impl Flag {
    /// A flag that is on or off.
    pub(crate) const fn switch(long: &'static str, help: &'static str) -> Self {
        Self::new(long, Value::Switch, help)
    }

    /// A flag with one value of a type as help names it; the last one given counts.
    pub(crate) const fn one(long: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self::new(long, Value::One(kind), help)
    }

    /// A flag that may be given several times.
    pub(crate) const fn many(long: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self::new(long, Value::Many(kind), help)
    }

    const fn new(long: &'static str, value: Value, help: &'static str) -> Self {
        Self {
            long,
            short: None,
            value,
            help,
            default: "",
            hidden: false,
        }
    }

    /// With a short name.
    pub(crate) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// With the default that help shows, quoted as Go does when it is a text.
    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Left out of help.
    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    pub(crate) fn long(&self) -> &'static str {
        self.long
    }

    pub(crate) fn letter(&self) -> Option<char> {
        self.short
    }

    pub(crate) fn help(&self) -> &'static str {
        self.help
    }

    pub(crate) fn first_line(&self) -> &'static str {
        self.help.lines().next().unwrap_or_default()
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// The type of its value, as help names it.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        match self.value {
            Value::Switch => None,
            Value::One(kind) | Value::Many(kind) => Some(kind),
        }
    }

    pub(crate) fn takes_value(&self) -> bool {
        self.kind().is_some()
    }

    /// As errors name it: `-m, --memory`.
    fn shown(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.long).long(self.long);
        let arg = match self.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        match self.value {
            Value::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .action(ArgAction::Append),
            Value::One(_) | Value::Many(_) => arg
                .num_args(1)
                .allow_hyphen_values(true)
                .action(ArgAction::Append),
        }
    }
}

const HELP: Flag = Flag::switch("help", "Print usage");
const ARGUMENTS: &str = "";

/// The flags and arguments of one call.
pub(crate) struct Parsed<'c> {
    command: &'c Command,
    /// The name it was called by.
    pub(crate) called: &'c str,
    matches: ArgMatches,
}

/// What the words of a command ask for.
pub(crate) enum Call<'c> {
    /// Its help.
    Help,
    /// To run it.
    Run(Parsed<'c>),
}

impl<'c> Command {
    /// Takes the words behind the command's name apart.
    pub(crate) fn parse(&'c self, called: &'c str, words: &[String]) -> Result<Call<'c>, Failure> {
        let mut parser = clap::Command::new("sampan")
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .arg(HELP.arg());
        let mut has_short_h = false;
        for flag in self.all_flags() {
            has_short_h |= flag.short == Some('h');
            parser = parser.arg(flag.arg());
        }
        if !has_short_h {
            parser = parser.arg(Flag::switch("deprecated-help", "").short('h').arg());
        }
        let arguments = Arg::new(ARGUMENTS)
            .num_args(0..)
            .trailing_var_arg(self.trailing);
        let matches = match parser.arg(arguments).try_get_matches_from(words) {
            Ok(matches) => matches,
            Err(error) => return Err(self.mistake(called, words, &error)),
        };
        let parsed = Parsed {
            command: self,
            called,
            matches,
        };
        let old_help = !has_short_h && parsed.switch("deprecated-help")?;
        if old_help {
            output::line("Flag shorthand -h has been deprecated, use --help");
        }
        if old_help || parsed.switch("help")? {
            return Ok(Call::Help);
        }
        self.arguments
            .check(called, parsed.arguments().len())
            .map_err(|(message, verb)| Failure::Usage {
                message: format!(
                    "sampan: {message}\n\n{}\n\n{verb} 'sampan {called} --help' for more information",
                    self.usage_line(called)
                ),
                code: 1,
            })?;
        Ok(Call::Run(parsed))
    }

    fn usage_line(&self, called: &str) -> String {
        format!("Usage:  {} {}", path(called), self.usage)
            .trim_end()
            .to_owned()
    }

    /// A wrong flag, in the words of Docker's parser.
    fn mistake(&self, called: &str, words: &[String], error: &clap::Error) -> Failure {
        let named = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(text)) => text.as_str(),
            _ => "",
        };
        // clap shows `--name <name>`.
        let named = named.split(['=', ' ', '[']).next().unwrap_or_default();
        let message = match error.kind() {
            ErrorKind::UnknownArgument => {
                let short = named.strip_prefix('-').and_then(|rest| rest.chars().next());
                let refused = self.refused.iter().find(|(long, letter)| {
                    named.strip_prefix("--") == Some(long) || (letter.is_some() && short == *letter)
                });
                match (refused, named.strip_prefix("--")) {
                    (Some((long, _)), _) => return self.not_supported(called, long),
                    (None, Some(_)) => format!("unknown flag: {named}"),
                    (None, None) => {
                        let letter = short.unwrap_or('-');
                        let word = words
                            .iter()
                            .find(|word| {
                                word.starts_with('-')
                                    && !word.starts_with("--")
                                    && word.contains(letter)
                            })
                            .map_or(named, |word| word.split('=').next().unwrap_or(word));
                        // Docker names what is left of the cluster from that letter on.
                        let rest = word.find(letter).map_or(word, |at| &word[at..]);
                        format!("unknown shorthand flag: '{letter}' in -{rest}")
                    }
                }
            }
            ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::NoEquals => {
                let flag = self
                    .all_flags()
                    .find(|flag| named.strip_prefix("--") == Some(flag.long));
                // The word itself tells whether the short name was used.
                match flag.and_then(|flag| Some((flag.short?, flag))) {
                    Some((short, _))
                        if words.last().is_some_and(|word| {
                            !word.starts_with("--") && word.ends_with(short)
                        }) =>
                    {
                        format!(
                            "flag needs an argument: '{short}' in {}",
                            words.last().map_or("", String::as_str)
                        )
                    }
                    _ => format!("flag needs an argument: {named}"),
                }
            }
            ErrorKind::InvalidUtf8 => "arguments must be valid UTF-8".to_owned(),
            _ => error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned(),
        };
        self.wrong_flag(called, &message)
    }

    fn not_supported(&self, called: &str, long: &str) -> Failure {
        let why = match long {
            "cpu-count" | "cpu-percent" | "io-maxbandwidth" | "io-maxiops" => {
                "is only supported on Windows"
            }
            "kernel-memory" => "does nothing on any kernel of today; use --memory",
            "use-api-socket" => {
                "would hand the engine to the container; bind its socket with -v where that is meant"
            }
            "link-local-ip" => "is only supported on user defined networks",
            _ => "is not supported yet by sampan",
        };
        self.wrong_flag(called, &format!("--{long} {why}"))
    }

    fn wrong_flag(&self, called: &str, message: &str) -> Failure {
        Failure::Usage {
            message: format!(
                "{message}\n\n{}\n\nRun '{} --help' for more information",
                self.usage_line(called),
                path(called)
            ),
            code: 125,
        }
    }

    /// The help text, wrapped to `width` columns.
    pub(crate) fn help(&self, called: &str, width: usize) -> String {
        let mut out = format!("{}\n\n{}\n", self.usage_line(called), self.about);
        if !self.details.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\n{}\n", self.details);
        }
        if self.names.len() > 1 {
            let names: Vec<String> = self
                .names
                .iter()
                .map(|name| format!("sampan {name}"))
                .collect();
            // Writing to a String cannot fail.
            let _ = write!(out, "\nAliases:\n  {}\n", names.join(", "));
        }
        let flags: Vec<&Flag> = self.all_flags().filter(|flag| !flag.hidden).collect();
        if !flags.is_empty() {
            let _ = write!(out, "\nOptions:\n{}", flag_usages(&flags, width));
        }
        out
    }
}

/// What was typed to call a command.
fn path(called: &str) -> String {
    format!("sampan {called}").trim_end().to_owned()
}

/// The list of flags in a help text, aligned and wrapped as Docker's.
pub(crate) fn flag_usages(flags: &[&Flag], width: usize) -> String {
    let mut flags = flags.to_vec();
    flags.sort_by_key(|flag| flag.long);
    let rows: Vec<(String, String)> = flags
        .iter()
        .map(|flag| {
            let name = match flag.short {
                Some(short) => format!("  -{short}, --{}", flag.long),
                None => format!("      --{}", flag.long),
            };
            let kind = match flag.value {
                Value::Switch => String::new(),
                Value::One(kind) | Value::Many(kind) => format!(" {kind}"),
            };
            let default = match (flag.default, flag.value) {
                ("", _) => String::new(),
                (text, Value::One("string")) => format!(" (default {text:?})"),
                (text, _) => format!(" (default {text})"),
            };
            (name + &kind, format!("{}{default}", flag.help))
        })
        .collect();
    let column = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for (name, help) in rows {
        let _ = writeln!(
            out,
            "{name:<indent$}{}",
            wrap(column, width.saturating_sub(1), &help),
            indent = column
        );
    }
    out
}

/// Wraps `text` that begins at column `indent` of `width`, as Go's pflag does.
fn wrap(indent: usize, width: usize, text: &str) -> String {
    const SLOP: usize = 5;
    let mut indent = indent;
    let mut out = String::new();
    if width.saturating_sub(indent) < 24 {
        indent = 16;
        out.push('\n');
        out.push_str(&" ".repeat(indent));
    }
    let room = width.saturating_sub(indent + SLOP).max(20);
    let blanks = format!("\n{}", " ".repeat(indent));
    let mut rest = text;
    let mut first = true;
    while first || !rest.is_empty() {
        let (line, left) = cut_line(room, SLOP, rest);
        if !first {
            out.push_str(&blanks);
        }
        out.push_str(&line.replace('\n', &blanks));
        rest = left;
        first = false;
    }
    out
}

fn cut_line(room: usize, slop: usize, text: &str) -> (&str, &str) {
    if room + slop > text.len() {
        return (text, "");
    }
    let mut room = room;
    while !text.is_char_boundary(room) {
        room -= 1;
    }
    let head = &text[..room];
    match head.rfind([' ', '\t', '\n']) {
        None | Some(0) => (text, ""),
        Some(blank) => {
            let at = match head.rfind('\n') {
                Some(line) if line > 0 && line < blank => line,
                _ => blank,
            };
            (&text[..at], &text[at + 1..])
        }
    }
}

impl Parsed<'_> {
    /// The arguments.
    pub(crate) fn arguments(&self) -> Vec<&str> {
        self.matches
            .get_many::<String>(ARGUMENTS)
            .map(|words| words.map(String::as_str).collect())
            .unwrap_or_default()
    }

    /// Whether any flag was given.
    pub(crate) fn any_flag(&self) -> bool {
        self.command.all_flags().any(|flag| self.given(flag.long))
    }

    /// Whether a flag was given.
    pub(crate) fn given(&self, long: &str) -> bool {
        self.matches.contains_id(long)
            && self.matches.value_source(long) == Some(clap::parser::ValueSource::CommandLine)
    }

    /// Whether a switch is on.
    pub(crate) fn switch(&self, long: &str) -> Result<bool, Failure> {
        self.switch_or(long, false)
    }

    /// Whether a switch is on, when it is on unless it is switched off.
    pub(crate) fn switch_or(&self, long: &str, default: bool) -> Result<bool, Failure> {
        let Some(text) = self.text(long) else {
            return Ok(default);
        };
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(self.invalid(
                long,
                text,
                &format!("strconv.ParseBool: parsing {text:?}: invalid syntax"),
            )),
        }
    }

    /// The last value of a flag.
    pub(crate) fn text(&self, long: &str) -> Option<&str> {
        self.texts(long).last().copied()
    }

    /// All values of a flag.
    pub(crate) fn texts(&self, long: &str) -> Vec<&str> {
        match self.matches.try_get_many::<String>(long) {
            Ok(Some(values)) => values.map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The last value of a flag, parsed.
    pub(crate) fn value<T>(
        &self,
        long: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        // An earlier wrong value is an error, too.
        Ok(self.values(long, parse)?.pop())
    }

    /// All values of a flag, parsed.
    pub(crate) fn values<T>(
        &self,
        long: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Failure> {
        self.texts(long)
            .into_iter()
            .map(|text| parse(text).map_err(|why| self.invalid(long, text, &why)))
            .collect()
    }

    /// A value that a flag does not take.
    pub(crate) fn invalid(&self, long: &str, text: &str, why: &str) -> Failure {
        let shown = self
            .command
            .all_flags()
            .find(|flag| flag.long == long)
            .map_or_else(|| format!("--{long}"), Flag::shown);
        self.command.wrong_flag(
            self.called,
            &format!("invalid argument {text:?} for {shown:?} flag: {why}"),
        )
    }
}

/// Prints help, wrapped to the terminal.
pub(crate) fn print_help(command: &Command, called: &str) {
    output::text(&command.help(called, terminal::width()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: Command = Command {
        names: &["container try", "try"],
        usage: "[OPTIONS] IMAGE [ARG...]",
        about: "Try things",
        flags: &[&[
            Flag::switch("interactive", "Keep STDIN open").short('i'),
            Flag::switch("tty", "Allocate a terminal").short('t'),
            Flag::switch("rm", "Remove it"),
            Flag::many("env", "list", "Set environment variables").short('e'),
            Flag::one("name", "string", "Assign a name"),
            Flag::one("memory-swap", "bytes", "Swap limit").short('m'),
            Flag::one("hostname", "string", "Host name").short('h'),
        ]],
        refused: &[("restart", None), ("cpu-shares", Some('c'))],
        arguments: Arguments::AtLeast(1),
        trailing: true,
        ..Command::PLAIN
    };

    fn parse(line: &str) -> Result<Parsed<'static>, String> {
        static TRY: Command = COMMAND;
        let words: Vec<String> = line.split(' ').map(|word| word.replace('_', "")).collect();
        match TRY.parse("try", &words) {
            Ok(Call::Run(parsed)) => Ok(parsed),
            Ok(Call::Help) => Err("help".to_owned()),
            Err(Failure::Usage { message, code }) => {
                Err(format!("{code} {}", message.lines().next().unwrap_or("")))
            }
            Err(other) => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn short_flags_combine_and_take_values() {
        let parsed = parse("-it -eA=1 -e B=2 -e=C --rm=false img -it --foo").unwrap();
        assert!(parsed.switch("interactive").unwrap());
        assert!(parsed.switch("tty").unwrap());
        assert!(!parsed.switch("rm").unwrap());
        assert!(parsed.given("rm"));
        assert!(!parsed.given("name"));
        assert_eq!(parsed.texts("env"), ["A=1", "B=2", "C"]);
        assert_eq!(parsed.arguments(), ["img", "-it", "--foo"]);
    }

    #[test]
    fn values_may_begin_with_hyphens_and_the_last_counts() {
        let parsed = parse("--memory-swap -1 --name a --name -b img").unwrap();
        assert_eq!(parsed.text("memory-swap"), Some("-1"));
        assert_eq!(parsed.text("name"), Some("-b"));
    }

    #[test]
    fn empty_values_are_values() {
        let parsed = parse("--name= -e _ img").unwrap();
        assert_eq!(parsed.text("name"), Some(""));
        assert_eq!(parsed.texts("env"), [""]);
    }

    #[test]
    fn double_hyphen_ends_the_flags() {
        assert_eq!(parse("-i -- -t x").unwrap().arguments(), ["-t", "x"]);
        assert_eq!(parse("-i x -- -t").unwrap().arguments(), ["x", "--", "-t"]);
    }

    #[test]
    fn switches_do_not_take_the_next_word() {
        let parsed = parse("--rm false").unwrap();
        assert!(parsed.switch("rm").unwrap());
        assert_eq!(parsed.arguments(), ["false"]);
        let parsed = parse("-itm 5 img").unwrap();
        assert_eq!(parsed.text("memory-swap"), Some("5"));
        assert!(parsed.switch("tty").unwrap());
    }

    #[test]
    fn mistakes_are_told_in_dockers_words() {
        for (line, message) in [
            ("--foo img", "125 unknown flag: --foo"),
            ("--foo=1 img", "125 unknown flag: --foo"),
            ("-itx img", "125 unknown shorthand flag: 'x' in -x"),
            (
                "--restart always img",
                "125 --restart is not supported yet by sampan",
            ),
            (
                "-c 5 img",
                "125 --cpu-shares is not supported yet by sampan",
            ),
            ("--name", "125 flag needs an argument: --name"),
            ("-e", "125 flag needs an argument: 'e' in -e"),
            ("-i", "1 sampan: 'sampan try' requires at least 1 argument"),
            ("--help", "help"),
        ] {
            assert_eq!(parse(line).err().as_deref(), Some(message), "{line}");
        }
    }

    #[test]
    fn wrong_values_name_the_flag() {
        let parsed = parse("--rm=xx -m y img").unwrap();
        let first_line = |failure: Failure| match failure {
            Failure::Usage { message, code } => {
                (code, message.lines().next().unwrap_or("").to_owned())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            first_line(parsed.switch("rm").unwrap_err()),
            (
                125,
                "invalid argument \"xx\" for \"--rm\" flag: strconv.ParseBool: parsing \"xx\": invalid syntax".to_owned()
            )
        );
        let wrong = parsed.value("memory-swap", |_| Err::<(), _>("why".to_owned()));
        assert_eq!(
            first_line(wrong.unwrap_err()).1,
            "invalid argument \"y\" for \"-m, --memory-swap\" flag: why"
        );
    }

    #[test]
    fn help_looks_like_dockers() {
        assert_eq!(
            COMMAND.help("try", 80),
            "\
Usage:  sampan try [OPTIONS] IMAGE [ARG...]

Try things

Aliases:
  sampan container try, sampan try

Options:
  -e, --env list            Set environment variables
  -h, --hostname string     Host name
  -i, --interactive         Keep STDIN open
  -m, --memory-swap bytes   Swap limit
      --name string         Assign a name
      --rm                  Remove it
  -t, --tty                 Allocate a terminal
"
        );
    }
}
