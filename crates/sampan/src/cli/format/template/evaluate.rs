//! Execution of templates.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::call::{self, Function};
use super::parse::{Base, Command, Node, Operand, Pipe, Place, Tree};
use super::{ROOT, Scope, TemplateError};
use crate::cli::format::data::{Data, Nil};

/// How much a template may print: a `range` over a number must not fill the memory.
const OUTPUT: usize = 256 << 20;

/// How deep named templates may call each other.
const DEPTH: usize = 100;

type Item<'a> = Cow<'a, Data>;

pub(super) fn render(
    tree: &Tree,
    root: &Data,
    scope: Scope<'_>,
) -> (String, Option<TemplateError>) {
    let mut state = State {
        named: &tree.named,
        depth: 0,
        root,
        scope,
        variables: vec![("$".to_owned(), Cow::Borrowed(root))],
        out: String::new(),
    };
    let error = state.walk(&tree.nodes, &Cow::Borrowed(root)).err();
    (state.out, error)
}

struct State<'a, 's> {
    named: &'s [(String, Vec<Node>)],
    /// How many named templates are being filled within each other.
    depth: usize,
    root: &'a Data,
    scope: Scope<'s>,
    variables: Vec<(String, Item<'a>)>,
    out: String,
}

enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) fn fail<T>(place: &Place, message: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::Execute {
        name: "",
        column: place.column,
        at: place.text.clone(),
        message: message.into(),
    })
}

impl<'a> State<'a, '_> {
    fn walk(&mut self, nodes: &[Node], dot: &Item<'a>) -> Result<Flow, TemplateError> {
        for node in nodes {
            match self.node(node, dot)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Item<'a>) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    // Writing to a String cannot fail.
                    let _ = write!(self.out, "{value}");
                }
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                return self.scoped(|state| {
                    let truth = state.pipe(condition, dot)?.truth();
                    state.walk(if truth { then } else { otherwise }, dot)
                });
            }
            Node::With {
                value,
                then,
                otherwise,
            } => {
                return self.scoped(|state| {
                    let value = state.pipe(value, dot)?;
                    if value.truth() {
                        state.walk(then, &value)
                    } else {
                        state.walk(otherwise, dot)
                    }
                });
            }
            Node::Range {
                over,
                body,
                otherwise,
            } => return self.scoped(|state| state.range(over, body, otherwise, dot)),
            Node::Call { name, value, place } => self.call(name, value.as_ref(), place, dot)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// Fills a named template, which sees no variable but its own root.
    fn call(
        &mut self,
        name: &str,
        value: Option<&Pipe>,
        place: &Place,
        dot: &Item<'a>,
    ) -> Result<(), TemplateError> {
        let named = self.named;
        let Some((_, nodes)) = named.iter().find(|(known, _)| known == name) else {
            return fail(place, format!("template {name:?} not defined"));
        };
        if self.depth == DEPTH {
            return fail(place, format!("exceeded maximum template depth ({DEPTH})"));
        }
        let dot = match value {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Cow::Owned(Data::Nil(Nil::Unknown)),
        };
        let outside = std::mem::replace(&mut self.variables, vec![("$".to_owned(), dot.clone())]);
        self.depth += 1;
        let _ = self.walk(nodes, &dot)?;
        self.depth -= 1;
        self.variables = outside;
        Ok(())
    }

    /// Runs a block and forgets the variables it declared.
    fn scoped<T>(
        &mut self,
        block: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        let depth = self.variables.len();
        let result = block(self);
        self.variables.truncate(depth);
        result
    }

    fn range(
        &mut self,
        over: &Pipe,
        body: &[Node],
        otherwise: &[Node],
        dot: &Item<'a>,
    ) -> Result<Flow, TemplateError> {
        let items = self.commands(over, dot)?;
        let entries: Box<dyn Iterator<Item = (Data, Item<'a>)>> = match items {
            Cow::Borrowed(Data::List(list)) => Box::new(
                list.iter()
                    .enumerate()
                    .map(|(position, item)| (Data::Int(position as i128), Cow::Borrowed(item))),
            ),
            Cow::Borrowed(object @ (Data::Object(_) | Data::Struct(_))) => Box::new(
                object
                    .sorted()
                    .into_iter()
                    .map(|(key, value)| (Data::from(key), Cow::Borrowed(value))),
            ),
            Cow::Owned(Data::List(list)) => Box::new(
                list.into_iter()
                    .enumerate()
                    .map(|(position, item)| (Data::Int(position as i128), Cow::Owned(item))),
            ),
            Cow::Owned(Data::Object(mut fields) | Data::Struct(mut fields)) => {
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                Box::new(
                    fields
                        .into_iter()
                        .map(|(key, value)| (Data::from(key), Cow::Owned(value))),
                )
            }
            other => match *other {
                Data::Nil(_) => Box::new(std::iter::empty()),
                Data::Int(count) => Box::new(
                    (0..count).map(|number| (Data::Int(number), Cow::Owned(Data::Int(number)))),
                ),
                ref value => {
                    return fail(&over.place, format!("range can't iterate over {value}"));
                }
            },
        };
        let mut any = false;
        for (key, element) in entries {
            any = true;
            if self.out.len() > OUTPUT {
                return fail(&over.place, "the output is too large");
            }
            let flow = self.scoped(|state| {
                match over.variables.as_slice() {
                    [] => {}
                    [one] => state.set(over, one, element.clone()),
                    [first, second, ..] => {
                        state.set(over, first, Cow::Owned(key));
                        state.set(over, second, element.clone());
                    }
                }
                state.walk(body, &element)
            })?;
            if let Flow::Break = flow {
                break;
            }
        }
        if any {
            Ok(Flow::Next)
        } else {
            self.walk(otherwise, dot)
        }
    }

    fn set(&mut self, pipe: &Pipe, name: &str, value: Item<'a>) {
        let known = self.variables.iter_mut().rev().find(|(key, _)| key == name);
        match known {
            Some((_, old)) if pipe.assign => *old = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    /// Evaluates a pipeline and sets its variables.
    fn pipe(&mut self, pipe: &Pipe, dot: &Item<'a>) -> Result<Item<'a>, TemplateError> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.variables {
            self.set(pipe, name, value.clone());
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Item<'a>) -> Result<Item<'a>, TemplateError> {
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Cow::Owned(Data::Nil(Nil::Unknown))))
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Item<'a>,
        last: Option<Item<'a>>,
    ) -> Result<Item<'a>, TemplateError> {
        let Some((first, arguments)) = command.operands.split_first() else {
            return fail(&command.place, "empty command");
        };
        if let Base::Function(function) = &first.base {
            let value = self.function(*function, command, arguments, dot, last)?;
            return self.fields(value, &first.fields, &first.place);
        }
        if matches!(first.base, Base::Literal(Data::Nil(_))) {
            return fail(&first.place, "nil is not a command");
        }
        let is_label = matches!(first.base, Base::Dot | Base::Variable(_))
            && self.scope.label.is_some()
            && first.fields == ["Label"];
        if arguments.is_empty() && last.is_none() && !is_label {
            return self.operand(first, dot);
        }
        match (&first.base, first.fields.as_slice()) {
            (Base::Dot | Base::Variable(_), [method]) => {
                let receiver = match &first.base {
                    Base::Variable(name) => self.variable(name),
                    _ => dot.clone(),
                };
                let mut values = Vec::new();
                for argument in arguments {
                    values.push(self.operand(argument, dot)?);
                }
                values.extend(last);
                self.method(&receiver, method, &values, &first.place)
            }
            (Base::Dot | Base::Variable(_), [.., name]) => fail(
                &first.place,
                format!("{name} has arguments but cannot be invoked as function"),
            ),
            _ => fail(
                &first.place,
                format!("can't give argument to non-function {}", first.place.text),
            ),
        }
    }

    fn method(
        &self,
        receiver: &Item<'a>,
        name: &str,
        arguments: &[Item<'a>],
        place: &Place,
    ) -> Result<Item<'a>, TemplateError> {
        let is_root = self.is_root(receiver);
        match (self.scope.label, name, arguments) {
            (Some(label), "Label", [key]) if is_root => match key.as_text() {
                Some(key) => Ok(Cow::Owned(Data::Text(label(key)))),
                None => fail(place, format!("expected string; found {key}")),
            },
            (Some(_), "Label", _) if is_root => fail(
                place,
                format!(
                    "wrong number of args for Label: want 1 got {}",
                    arguments.len()
                ),
            ),
            _ if receiver.get(name).is_some() => fail(
                place,
                format!("{name} has arguments but cannot be invoked as function"),
            ),
            _ => fail(place, self.no_field(receiver, "", name)),
        }
    }

    fn is_root(&self, value: &Item<'a>) -> bool {
        matches!(value, Cow::Borrowed(value) if std::ptr::eq(*value, self.root))
    }

    fn no_field(&self, receiver: &Item<'a>, parent: &str, name: &str) -> String {
        let is_root = self.is_root(receiver);
        let struct_name = match is_root {
            true => Some(self.scope.type_name).filter(|name| !name.starts_with("map[")),
            false => (self.scope.struct_name)(parent),
        };
        match (receiver.plain(), struct_name) {
            (Data::Object(_) | Data::Struct(_), Some(struct_name)) => {
                format!("can't evaluate field {name} in type {struct_name}")
            }
            (Data::Object(_) | Data::Struct(_), None) => {
                format!("map has no entry for key {name:?}")
            }
            _ if self.scope.untyped => {
                format!("can't evaluate field {name} in type interface {{}}")
            }
            (other, _) => format!(
                "can't evaluate field {name} in type {}",
                call::type_name(other)
            ),
        }
    }

    fn variable(&self, name: &str) -> Item<'a> {
        self.variables
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map_or(Cow::Owned(Data::Nil(Nil::Unknown)), |(_, value)| {
                value.clone()
            })
    }

    fn operand(&mut self, operand: &Operand, dot: &Item<'a>) -> Result<Item<'a>, TemplateError> {
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => self.variable(name),
            Base::Literal(value) => Cow::Owned(value.clone()),
            Base::Pipe(pipe) => self.pipe(pipe, dot)?,
            Base::Function(function) => {
                let command = Command {
                    operands: Vec::new(),
                    place: operand.place.clone(),
                };
                self.function(*function, &command, &[], dot, None)?
            }
        };
        // Go points at what it looked at last.
        let place = match &operand.base {
            Base::Pipe(pipe) => pipe
                .commands
                .last()
                .and_then(|command| command.operands.last()),
            _ => None,
        };
        let place = place.map_or(&operand.place, |last| &last.place);
        self.fields(base, &operand.fields, place)
    }

    fn fields(
        &self,
        base: Item<'a>,
        names: &[String],
        place: &Place,
    ) -> Result<Item<'a>, TemplateError> {
        let mut value = base;
        let mut parent = if self.is_root(&value) { ROOT } else { "" };
        for name in names {
            let child = match &value {
                Cow::Borrowed(data) => self.field(data, name).map(Cow::Borrowed),
                Cow::Owned(data) => self.field(data, name).cloned().map(Cow::Owned),
            };
            let absent = match child.as_deref() {
                None | Some(Data::Nil(_)) => (self.scope.absent)(parent, name),
                Some(_) => None,
            };
            value = match (child, absent) {
                (_, Some(zero)) if !matches!(*value, Data::Nil(_)) => Cow::Owned(zero),
                (Some(child), _) => child,
                (None, _) => {
                    // Go points at the second field of a chain, whichever failed.
                    let place = match names {
                        [first, _, ..] if place.text.starts_with('.') => Place {
                            column: place.column + first.len() + 1,
                            text: place.text.clone(),
                        },
                        _ => place.clone(),
                    };
                    return match &*value {
                        // A map that is not there has no entries.
                        Data::Nil(Nil::Unknown | Nil::Map) if !self.scope.untyped => {
                            Ok(Cow::Owned(Data::Nil(Nil::Unknown)))
                        }
                        Data::Nil(_) => {
                            fail(&place, format!("nil data; no entry for key {name:?}"))
                        }
                        _ => fail(&place, self.no_field(&value, parent, name)),
                    };
                }
            };
            parent = name;
        }
        Ok(value)
    }

    fn field<'d>(&self, data: &'d Data, name: &str) -> Option<&'d Data> {
        data.get(name)
            .or_else(|| data.get((self.scope.alias)(name)?))
    }

    fn function(
        &mut self,
        function: Function,
        command: &Command,
        arguments: &[Operand],
        dot: &Item<'a>,
        last: Option<Item<'a>>,
    ) -> Result<Item<'a>, TemplateError> {
        if let Some(until) = function.short_circuit() {
            let mut value = None;
            for argument in arguments {
                let item = self.operand(argument, dot)?;
                if item.truth() == until {
                    return Ok(item);
                }
                value = Some(item);
            }
            return match last.or(value) {
                Some(value) => Ok(value),
                None => fail(
                    &command.place,
                    format!(
                        "wrong number of args for {}: want at least 1 got 0",
                        function.name()
                    ),
                ),
            };
        }
        if let (
            Function::Json,
            [
                Operand {
                    base: Base::Dot,
                    fields,
                    ..
                },
            ],
            None,
        ) = (function, arguments, &last)
            && fields.is_empty()
            && self.scope.label.is_some()
            && self.is_root(dot)
            && !self.scope.header
        {
            // Docker's rows encode themselves, with Go's default of escaping HTML.
            return Ok(Cow::Owned(Data::Text(dot.to_escaped_json())));
        }
        let name = command
            .operands
            .first()
            .map_or(&command.place, |name| &name.place);
        if let Err(message) = function.takes(arguments.len() + usize::from(last.is_some())) {
            return fail(name, message);
        }
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for (position, argument) in arguments.iter().enumerate() {
            let value = self.operand(argument, dot)?.into_owned();
            let literal = matches!(argument.base, Base::Literal(_));
            let literal = literal.then_some(argument.place.text.as_str());
            if let Err(message) = function.takes_value(position, &value, literal) {
                return fail(&argument.place, message);
            }
            values.push(value);
        }
        if let Some(last) = last {
            let last = last.into_owned();
            if let Err(message) = function.takes_value(values.len(), &last, None) {
                return fail(name, message);
            }
            values.push(last);
        }
        function
            .call(&values, &self.scope)
            .map(Cow::Owned)
            .or_else(|message| fail(&command.place, message))
    }
}
