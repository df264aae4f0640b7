//! Syntax of templates.

use super::TemplateError;
use super::call::Function;
use super::lex::{self, Kind, Piece, Token};
use crate::cli::format::data::{Data, Nil};

/// How deep parentheses and blocks may nest.
const DEPTH: usize = 200;

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If {
        condition: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{template "name" value}}`
    Call {
        name: String,
        value: Option<Pipe>,
        place: Place,
    },
    Break,
    Continue,
}

/// A template and those that it defines by name.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) named: Vec<(String, Vec<Node>)>,
}

/// Commands joined by `|`, with the variables that take the result.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    pub(super) assign: bool,
    pub(super) commands: Vec<Command>,
    pub(super) place: Place,
}

/// An operand and its arguments.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) operands: Vec<Operand>,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// Names of the fields taken of it.
    pub(super) fields: Vec<String>,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) enum Base {
    /// `.`, also in front of fields.
    Dot,
    Variable(String),
    Function(Function),
    Literal(Data),
    Pipe(Box<Pipe>),
}

/// Where an expression stands, for errors.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) column: usize,
    pub(super) text: String,
}

/// What ended a list of nodes.
enum End {
    /// The end of the template.
    Text,
    /// `{{end}}`.
    Block,
    /// `{{else}}` and what follows the word.
    Else(Vec<Token>),
}

pub(super) fn parse(template: &str) -> Result<Tree, TemplateError> {
    let mut parser = Parser {
        template,
        pieces: lex::pieces(template)?.into_iter(),
        variables: vec!["$".to_owned()],
        named: Vec::new(),
        loops: 0,
        depth: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        End::Text => Ok(Tree {
            nodes,
            named: parser.named,
        }),
        End::Block => parser.error(&[], "unexpected {{end}}"),
        End::Else(_) => parser.error(&[], "unexpected {{else}}"),
    }
}

struct Parser<'t> {
    template: &'t str,
    pieces: std::vec::IntoIter<Piece<'t>>,
    variables: Vec<String>,
    named: Vec<(String, Vec<Node>)>,
    loops: usize,
    depth: usize,
}

impl Parser<'_> {
    fn error<T>(&self, at: &[Token], message: impl Into<String>) -> Result<T, TemplateError> {
        let offset = at
            .first()
            .map_or(self.template.trim_end().len(), |token| token.start);
        let line = lex::line_at(self.template, offset);
        Err(TemplateError::Parse {
            name: "",
            line,
            message: message.into(),
        })
    }

    fn deeper(&mut self, at: &[Token]) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return self.error(at, "template is nested too deeply");
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let keyword = match tokens.first().map(|token| &token.kind) {
                Some(Kind::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let rest = tokens.get(1..).unwrap_or_default();
            match keyword.as_str() {
                "end" => return Ok((nodes, End::Block)),
                "else" => return Ok((nodes, End::Else(rest.to_vec()))),
                "if" | "with" | "range" => nodes.push(self.block(&keyword, rest)?),
                "break" | "continue" if self.loops == 0 => {
                    return self.error(&tokens, format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" => self.define(&tokens, rest)?,
                "template" => nodes.push(self.call(&tokens, rest)?),
                "block" => {
                    let call = self.call(&tokens, rest)?;
                    self.define(&tokens, &rest[..1])?;
                    nodes.push(call);
                }
                _ => nodes.push(Node::Action(self.action(&tokens)?)),
            }
        }
        Ok((nodes, End::Text))
    }

    /// Parses a template that is defined by name; a later one of the name counts.
    fn define(&mut self, tokens: &[Token], rest: &[Token]) -> Result<(), TemplateError> {
        let [
            Token {
                kind: Kind::Text(name),
                ..
            },
        ] = rest
        else {
            return self.error(tokens, "unexpected text in define clause");
        };
        self.deeper(tokens)?;
        let outside = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, end) = self.list()?;
        (self.variables, self.loops) = (outside, loops);
        self.depth -= 1;
        match end {
            End::Block => {}
            End::Text => return self.error(&[], "unexpected EOF"),
            End::Else(rest) => return self.error(&rest, "unexpected {{else}} in define clause"),
        }
        self.named.retain(|(known, _)| known != name);
        self.named.push((name.clone(), nodes));
        Ok(())
    }

    /// Parses the use of a named template.
    fn call(&mut self, tokens: &[Token], rest: &[Token]) -> Result<Node, TemplateError> {
        let Some((
            Token {
                kind: Kind::Text(name),
                start,
                ..
            },
            value,
        )) = rest.split_first()
        else {
            return self.error(tokens, "unexpected text in template clause");
        };
        let value = match value {
            [] => None,
            value => Some(self.pipe(value, false, "template clause")?),
        };
        let shown = value
            .as_ref()
            .map_or(String::new(), |pipe| format!(" {}", pipe.place.text));
        Ok(Node::Call {
            name: name.clone(),
            value,
            place: Place {
                column: *start,
                text: format!("{{{{template {name:?}{shown}}}}}"),
            },
        })
    }

    /// Parses a control structure whose keyword was taken.
    fn block(&mut self, keyword: &str, tokens: &[Token]) -> Result<Node, TemplateError> {
        self.deeper(tokens)?;
        let scope = self.variables.len();
        let head = self.pipe(tokens, keyword == "range", keyword)?;
        self.loops += usize::from(keyword == "range");
        let (then, end) = self.list()?;
        self.loops -= usize::from(keyword == "range");
        let otherwise = match end {
            End::Block => Vec::new(),
            End::Text => return self.error(&[], "unexpected EOF"),
            End::Else(rest) => self.otherwise(keyword, &rest)?,
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(match keyword {
            "if" => Node::If {
                condition: head,
                then,
                otherwise,
            },
            "with" => Node::With {
                value: head,
                then,
                otherwise,
            },
            _ => Node::Range {
                over: head,
                body: then,
                otherwise,
            },
        })
    }

    fn otherwise(&mut self, keyword: &str, rest: &[Token]) -> Result<Vec<Node>, TemplateError> {
        match rest.first().map(|token| &token.kind) {
            // The chained block takes the one `end` of both.
            Some(Kind::Word(word)) if word == keyword && keyword != "range" => {
                Ok(vec![self.block(keyword, &rest[1..])?])
            }
            Some(_) => self.error(rest, "unexpected text in {{else}}"),
            None => match self.list()? {
                (nodes, End::Block) => Ok(nodes),
                (_, End::Text) => self.error(&[], "unexpected EOF"),
                (_, End::Else(_)) => self.error(rest, "expected end; found {{else}}"),
            },
        }
    }

    fn action(&mut self, tokens: &[Token]) -> Result<Pipe, TemplateError> {
        self.pipe(tokens, false, "command")
    }

    /// Parses a pipeline with the variables in front of it.
    fn pipe(
        &mut self,
        tokens: &[Token],
        range: bool,
        context: &str,
    ) -> Result<Pipe, TemplateError> {
        let kinds: Vec<&Kind> = tokens.iter().take(4).map(|token| &token.kind).collect();
        let (variables, assign, skip) = match kinds.as_slice() {
            [
                Kind::Variable(name),
                operator @ (Kind::Declare | Kind::Assign),
                ..,
            ] => (vec![name.clone()], **operator == Kind::Assign, 2),
            [
                Kind::Variable(key),
                Kind::Comma,
                Kind::Variable(element),
                operator @ (Kind::Declare | Kind::Assign),
            ] if range => (
                vec![key.clone(), element.clone()],
                **operator == Kind::Assign,
                4,
            ),
            _ => (Vec::new(), false, 0),
        };
        if assign {
            self.known(tokens, &variables)?;
        }
        let mut cursor = Cursor {
            tokens: &tokens[skip..],
            next: 0,
        };
        let commands = self.commands(&mut cursor, context)?;
        if let Some(extra) = cursor.peek() {
            let text = &self.template[extra.start..extra.end];
            return self.error(
                std::slice::from_ref(extra),
                format!("unexpected {text:?} in {context}"),
            );
        }
        if !assign {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipe {
            variables,
            assign,
            place: self.place(&tokens[skip..]),
            commands,
        })
    }

    fn known(&self, tokens: &[Token], names: &[String]) -> Result<(), TemplateError> {
        match names.iter().find(|name| !self.variables.contains(name)) {
            Some(name) => self.error(tokens, format!("undefined variable {name:?}")),
            None => Ok(()),
        }
    }

    fn place(&self, tokens: &[Token]) -> Place {
        match (tokens.first(), tokens.last()) {
            (Some(first), Some(last)) => Place {
                column: first.start,
                text: self.template[first.start..last.end].to_owned(),
            },
            _ => Place::default(),
        }
    }

    fn commands(
        &mut self,
        cursor: &mut Cursor<'_>,
        context: &str,
    ) -> Result<Vec<Command>, TemplateError> {
        let mut commands = Vec::new();
        loop {
            let start = cursor.next;
            let mut operands = Vec::new();
            while let Some(operand) = self.operand(cursor)? {
                operands.push(operand);
            }
            // Go has nothing against a pipe that leads nowhere.
            if operands.is_empty() && cursor.peek().is_none() && !commands.is_empty() {
                return Ok(commands);
            }
            if operands.is_empty() {
                return self.error(
                    cursor.tokens.get(start..).unwrap_or_default(),
                    format!("missing value for {context}"),
                );
            }
            commands.push(Command {
                operands,
                place: self.place(&cursor.tokens[start..cursor.next]),
            });
            match cursor.peek().map(|token| &token.kind) {
                Some(Kind::Pipe) => cursor.next += 1,
                _ => return Ok(commands),
            }
        }
    }

    fn operand(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Operand>, TemplateError> {
        let Some(token) = cursor.peek().cloned() else {
            return Ok(None);
        };
        let here = std::slice::from_ref(&token);
        let start = cursor.next;
        let mut fields = Vec::new();
        let base = match token.kind {
            Kind::Dot => Base::Dot,
            Kind::Field(ref name) => {
                fields.push(name.clone());
                Base::Dot
            }
            Kind::Variable(ref name) => {
                self.known(here, std::slice::from_ref(name))?;
                Base::Variable(name.clone())
            }
            Kind::Text(ref text) => Base::Literal(Data::Text(text.clone())),
            Kind::Int(number) => Base::Literal(Data::Int(number)),
            Kind::Float(number) => Base::Literal(Data::Float(number)),
            Kind::Word(ref word) => match word.as_str() {
                "true" => Base::Literal(Data::Bool(true)),
                "false" => Base::Literal(Data::Bool(false)),
                "nil" => Base::Literal(Data::Nil(Nil::Unknown)),
                name => match Function::named(name) {
                    Some(function) => Base::Function(function),
                    None => {
                        return self.error(here, format!("function {name:?} not defined"));
                    }
                },
            },
            Kind::Open => {
                cursor.next += 1;
                self.deeper(here)?;
                let inner = cursor.next;
                let commands = self.commands(cursor, "parenthesized pipeline")?;
                let place = self.place(&cursor.tokens[inner..cursor.next]);
                self.depth -= 1;
                match cursor.peek().map(|token| &token.kind) {
                    Some(Kind::Close) => {}
                    _ => return self.error(here, "unclosed left paren"),
                }
                Base::Pipe(Box::new(Pipe {
                    variables: Vec::new(),
                    assign: false,
                    commands,
                    place,
                }))
            }
            Kind::Pipe | Kind::Close | Kind::Comma | Kind::Declare | Kind::Assign => {
                return Ok(None);
            }
        };
        cursor.next += 1;
        while let Some(Token {
            kind: Kind::Field(name),
            spaced: false,
            ..
        }) = cursor.peek()
        {
            fields.push(name.clone());
            cursor.next += 1;
        }
        Ok(Some(Operand {
            base,
            fields,
            place: self.place(&cursor.tokens[start..cursor.next]),
        }))
    }
}

struct Cursor<'t> {
    tokens: &'t [Token],
    next: usize,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<&'t Token> {
        self.tokens.get(self.next)
    }
}
