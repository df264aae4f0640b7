//! `sampan completion`: scripts for shells, and what they ask: the words that may stand at a place.
//!
//! The scripts only pass the words on (`sampan __complete WORD...`, the last one being typed), so
//! that all shells offer the same and the tables of commands are the one source.

use sampan_api::Client;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::data::Data;
use super::output;
use super::session::Session;
use super::{COMMANDS, GROUPS, ROOT};

pub(crate) const COMPLETION: Command = Command {
    names: &["completion"],
    usage: "bash|zsh|fish|powershell",
    about: "Generate the autocompletion script for the specified shell",
    details: "\
Load it in bash:        source <(sampan completion bash)
Load it in zsh:         source <(sampan completion zsh)
Load it in fish:        sampan completion fish | source
Load it in PowerShell:  sampan completion powershell | Out-String | Invoke-Expression",
    arguments: Arguments::Exactly(1),
    run: |_, parsed| {
        let script = match parsed.arguments()[0] {
            "bash" => BASH,
            "zsh" => ZSH,
            "fish" => FISH,
            "powershell" => POWERSHELL,
            other => {
                return Err(Failure::message(format!(
                    "unknown shell {other:?}: use bash, zsh, fish or powershell"
                )));
            }
        };
        output::text(script);
        Ok(0)
    },
    ..Command::PLAIN
};

pub(crate) const COMPLETE: Command = Command {
    names: &["__complete"],
    usage: "WORD...",
    about: "Say what may stand at the place of the last word",
    arguments: Arguments::Any,
    trailing: true,
    hidden: true,
    run: complete,
    ..Command::PLAIN
};

const BASH: &str = r#"# bash completion for sampan
_sampan() {
    local line words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    # A colon ends a word for bash, but not for sampan.
    COMPREPLY=()
    while IFS=$'\t' read -r line _; do
        if [[ $line == : ]]; then
            compopt -o default 2>/dev/null
        else
            COMPREPLY+=("$line")
        fi
    done < <(sampan __complete -- "${words[@]}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _sampan sampan
"#;

const ZSH: &str = r#"#compdef sampan
_sampan() {
    local line files=0
    local -a offered
    while IFS= read -r line; do
        if [[ $line == : ]]; then
            files=1
        else
            offered+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        fi
    done < <(sampan __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#offered} )) && _describe sampan offered
    (( files )) && _files
}
if [[ ${funcstack[1]} == _sampan ]]; then _sampan "$@"; else compdef _sampan sampan; fi
"#;

const FISH: &str = r#"# fish completion for sampan
function __sampan_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l files
    for line in (sampan __complete -- $words[2..-1] 2>/dev/null)
        if test "$line" = :
            set files 1
        else
            echo $line
        end
    end
    if set -q files[1]
        __fish_complete_path (commandline -ct)
    end
end
complete -c sampan -f -a '(__sampan_complete)'
"#;

const POWERSHELL: &str = r#"# PowerShell completion for sampan
Register-ArgumentCompleter -Native -CommandName sampan -ScriptBlock {
    param($word, $ast, $cursor)
    $words = @($ast.CommandElements | Select-Object -Skip 1 | ForEach-Object { "$_" })
    if ($word -eq '') { $words += '""' }
    sampan __complete -- @words 2>$null | Where-Object { $_ -ne ':' } | ForEach-Object {
        $text, $about = $_ -split "`t", 2
        if (-not $about) { $about = $text }
        [System.Management.Automation.CompletionResult]::new($text, $text, 'ParameterValue', $about)
    }
}
"#;

/// What stands at a place of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
    File,
}

/// What may stand at the place of the last word.
#[derive(Debug, Default, PartialEq, Eq)]
struct Offer {
    /// Each with a few words about it.
    words: Vec<(String, String)>,
    objects: Option<Kind>,
}

fn complete(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let words = parsed.arguments();
    let (typed, before) = words
        .split_last()
        .map_or(("", &[][..]), |(l, rest)| (*l, rest));
    let offer = offer(before, typed);
    let mut out = String::new();
    for (word, about) in &offer.words {
        if word.starts_with(typed) {
            out.push_str(&format!("{word}\t{about}\n"));
        }
    }
    match offer.objects {
        None => {}
        Some(Kind::File) => out.push_str(":\n"),
        Some(kind) => {
            // An engine that does not run is not started for this.
            if let Some(client) = session.running_client() {
                let names = session.wait(objects(client, kind)).unwrap_or_default();
                for name in names.iter().filter(|name| name.starts_with(typed)) {
                    out.push_str(&format!("{name}\t\n"));
                }
            }
        }
    }
    output::text(&out);
    Ok(0)
}

async fn objects(client: &Client, kind: Kind) -> Result<Vec<String>, Failure> {
    let path = match kind {
        Kind::Container => "/containers/json?all=1",
        Kind::Image => "/images/json",
        Kind::Network => "/networks",
        Kind::Volume => "/volumes",
        Kind::File => return Ok(Vec::new()),
    };
    let response = client.request(http::Method::GET, path).send().await?;
    let data = super::read_data(response).await?;
    let texts = |data: &[Data]| -> Vec<String> {
        data.iter()
            .filter_map(Data::as_text)
            .map(|text| text.trim_start_matches('/').to_owned())
            .collect()
    };
    let items = match kind {
        Kind::Volume => data.list_at("Volumes"),
        _ => data.items(),
    };
    let names = items.iter().flat_map(|item| match kind {
        Kind::Container => texts(item.list_at("Names")),
        Kind::Image => texts(item.list_at("RepoTags")),
        _ => vec![item.text_at("Name").to_owned()],
    });
    Ok(names.collect())
}

/// Decides by the words in front of the one that is typed.
fn offer(before: &[&str], typed: &str) -> Offer {
    let mut rest = before;
    // Flags in front of the command.
    while let Some((first, more)) = rest.split_first()
        && first.starts_with('-')
    {
        rest = match value_of(&ROOT, first) {
            true if more.is_empty() => return Offer::default(),
            true => &more[1..],
            false => more,
        };
    }
    match called(rest) {
        Called::Nothing if rest.is_empty() => Offer {
            words: match typed.starts_with('-') {
                true => flags(&ROOT),
                false => top_words(),
            },
            objects: None,
        },
        Called::Nothing => Offer::default(),
        Called::Group(group) => Offer {
            words: verbs(group),
            objects: None,
        },
        Called::Command(command, arguments) => of_command(command, arguments, typed),
    }
}

enum Called<'w> {
    Command(&'static Command, &'w [&'w str]),
    Group(&'static str),
    Nothing,
}

/// The command that the words begin with, by its longest name.
fn called<'w>(words: &'w [&'w str]) -> Called<'w> {
    for length in (1..=words.len().min(3)).rev() {
        let name = words[..length].join(" ");
        let named = |command: &&Command| command.names.contains(&name.as_str());
        if let Some(command) = COMMANDS.iter().find(named) {
            return Called::Command(command, &words[length..]);
        }
    }
    match words {
        [word] => match GROUPS.iter().find(|(name, _)| name == word) {
            Some((name, _)) => Called::Group(name),
            None => Called::Nothing,
        },
        _ => Called::Nothing,
    }
}

/// Whether a word is a flag whose value is the next word.
fn value_of(command: &Command, word: &str) -> bool {
    flag(command, word).is_some_and(Flag::takes_value) && !word.contains('=')
}

fn flag(command: &Command, word: &str) -> Option<&'static Flag> {
    let mut all = command.all_flags();
    match word.strip_prefix("--") {
        Some(long) => {
            let long = long.split('=').next().unwrap_or(long);
            all.find(|flag| flag.long() == long)
        }
        // Of several letters the last one may take a value.
        None => {
            let letter = word.strip_prefix('-')?.chars().next_back()?;
            all.find(|flag| flag.letter() == Some(letter))
        }
    }
}

fn of_command(command: &'static Command, arguments: &[&str], typed: &str) -> Offer {
    let mut positional = 0;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let may_be_flag = positional == 0 || !command.trailing;
        if may_be_flag && word.starts_with('-') && *word != "-" {
            if value_of(command, word) && words.next().is_none() {
                return Offer {
                    words: Vec::new(),
                    objects: of_value(command, word),
                };
            }
            continue;
        }
        positional += 1;
    }
    if typed.starts_with('-') && (positional == 0 || !command.trailing) {
        return Offer {
            words: flags(command),
            objects: None,
        };
    }
    if command.names == COMPLETION.names {
        let shells = ["bash", "zsh", "fish", "powershell"];
        return Offer {
            words: shells
                .map(|shell| (shell.to_owned(), String::new()))
                .to_vec(),
            objects: None,
        };
    }
    Offer {
        words: Vec::new(),
        objects: of_argument(command.usage, positional),
    }
}

/// What an argument is, by the command's usage line.
fn of_argument(usage: &str, position: usize) -> Option<Kind> {
    let line = usage.lines().next().unwrap_or_default();
    let places: Vec<&str> = line
        .split_ascii_whitespace()
        .filter(|word| *word != "[OPTIONS]")
        .collect();
    let place = match places.get(position) {
        Some(place) => place,
        // The last one may be repeated.
        None => places.last().filter(|place| place.contains("..."))?,
    };
    kind(place)
}

fn kind(place: &str) -> Option<Kind> {
    let place = place.trim_matches(['[', ']', '.']);
    match place
        .split([':', '|', '/', '[', '@'])
        .next()
        .unwrap_or(place)
    {
        "CONTAINER" => Some(Kind::Container),
        "IMAGE" | "SOURCE_IMAGE" | "NAME" if place != "NAME" || place.contains("IMAGE") => {
            Some(Kind::Image)
        }
        "NETWORK" => Some(Kind::Network),
        "VOLUME" => Some(Kind::Volume),
        "PATH" | "FILE" | "file" | "SRC_PATH" | "DEST_PATH" => Some(Kind::File),
        _ => None,
    }
}

fn of_value(command: &Command, word: &str) -> Option<Kind> {
    let flag = flag(command, word)?;
    match flag.long() {
        "network" | "net" => Some(Kind::Network),
        "volumes-from" => Some(Kind::Container),
        "env-file" | "file" | "output" | "input" | "cidfile" | "iidfile" | "label-file"
        | "volume" | "tlscacert" | "tlscert" | "tlskey" | "config" => Some(Kind::File),
        _ => None,
    }
}

fn flags(command: &Command) -> Vec<(String, String)> {
    let shown = command.all_flags().filter(|flag| !flag.is_hidden());
    let mut words: Vec<(String, String)> = shown
        .map(|flag| (format!("--{}", flag.long()), flag.first_line().to_owned()))
        .collect();
    words.sort_unstable();
    words
}

fn top_words() -> Vec<(String, String)> {
    let mut words: Vec<(String, String)> = COMMANDS
        .iter()
        .filter(|command| !command.hidden)
        .flat_map(|command| {
            let names = command.names.iter().filter(|name| !name.contains(' '));
            names.map(|name| ((*name).to_owned(), command.about.to_owned()))
        })
        .chain(
            GROUPS
                .iter()
                .map(|(name, about)| ((*name).to_owned(), (*about).to_owned())),
        )
        .chain([("daemon".to_owned(), "Run the engine".to_owned())])
        .collect();
    words.sort_unstable();
    words.dedup_by(|a, b| a.0 == b.0);
    words
}

fn verbs(group: &str) -> Vec<(String, String)> {
    let mut words: Vec<(String, String)> = COMMANDS
        .iter()
        .filter(|command| !command.hidden)
        .flat_map(|command| {
            let names = command.names.iter();
            let verbs = names.filter_map(|name| name.strip_prefix(group)?.strip_prefix(' '));
            verbs.map(|verb| (verb.to_owned(), command.about.to_owned()))
        })
        .collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(before: &[&str], typed: &str) -> Vec<String> {
        let offer = offer(before, typed);
        let words = offer.words.into_iter().map(|(word, _)| word);
        words.filter(|word| word.starts_with(typed)).collect()
    }

    #[test]
    fn commands_groups_and_flags_are_offered() {
        assert!(words(&[], "p").contains(&"ps".to_owned()));
        assert!(words(&[], "").contains(&"container".to_owned()));
        assert!(!words(&[], "_").contains(&"__complete".to_owned()));
        assert_eq!(words(&[], "--tlsv"), ["--tlsverify"]);
        assert!(words(&["container"], "st").contains(&"stop".to_owned()));
        assert!(words(&["-H", "unix:///x", "image"], "").contains(&"ls".to_owned()));
        assert!(words(&["run"], "--vol").contains(&"--volume".to_owned()));
        assert!(words(&["container", "run", "-it"], "--net").contains(&"--network".to_owned()));
        // What follows belongs to the command in the container.
        assert!(words(&["run", "busybox", "ls"], "--").is_empty());
        assert_eq!(words(&["completion"], "z"), ["zsh"]);
    }

    #[test]
    fn objects_are_offered_where_they_stand() {
        for (before, kind) in [
            (&["rm"][..], Some(Kind::Container)),
            (&["rm", "-f", "a"], Some(Kind::Container)),
            (&["exec", "-it"], Some(Kind::Container)),
            (&["exec", "-it", "c"], None),
            (&["run", "--network"], Some(Kind::Network)),
            (&["run", "--env-file"], Some(Kind::File)),
            (&["run", "-it", "--rm"], Some(Kind::Image)),
            (&["run", "-e"], None),
            (&["rmi"], Some(Kind::Image)),
            (&["volume", "rm"], Some(Kind::Volume)),
            (&["cp"], Some(Kind::Container)),
            (&["rename"], Some(Kind::Container)),
        ] {
            assert_eq!(offer(before, "").objects, kind, "{before:?}");
        }
    }
}
