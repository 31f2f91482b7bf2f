//! Compiles a template and puts guards into its instructions.
//!
//! After every instruction that makes a new value comes a call of [`CHARGE`], which
//! takes the value's size from the budget and hands the value on. No single instruction
//! makes more than a small multiple of what has been charged before, except
//! multiplication, which [`MULTIPLY`] replaces, and a few filters and methods, which
//! `builtins` replaces. Text of the template goes through the formatter like values do.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, eval, make_string_output};
use minijinja::machinery::{parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

// With a space in it, no template can call or replace a guard by its name.
/// Charges a value and returns it.
pub(super) const CHARGE: &str = "guard charge";
/// Charges a value that a namespace is to hold and returns it.
pub(super) const CHARGE_DATA: &str = "guard charge data";
/// Multiplies two numbers.
pub(super) const MULTIPLY: &str = "guard multiply";

/// Most tokens of one tag. Binary operators nest to the left without limit in the
/// engine's parser, and it walks them by recursion.
const TAG_TOKENS: usize = 500;
/// Most `elif` of a template; the parser recurses on these too.
const ELIFS: usize = 200;
/// Flag of a loop that calls itself, as the engine numbers it.
const RECURSIVE_LOOP: u8 = 2;

fn syntax() -> Result<SyntaxConfig, Error> {
    // As Hugging Face transformers sets Jinja up for chat templates.
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// Compiles a template with its guards.
pub(super) fn compile(source: &str) -> Result<Instructions<'_>, Error> {
    check_tokens(source)?;
    let ast = parse(source, "chat template", syntax()?)?;
    let mut generator = CodeGenerator::new("chat template", source);
    generator.compile_stmt(&ast);
    let (instructions, blocks) = generator.finish();
    if !blocks.is_empty() {
        return Err(unsupported("blocks"));
    }
    guarded(&instructions, source)
}

/// Runs a template.
pub(super) fn run<'a>(env: &'a Environment<'a>, source: &'a str, context: Value) -> Result<String, Error> {
    let instructions = compile(source)?;
    let blocks = std::collections::BTreeMap::new();
    let mut text = String::new();
    let mut out = make_string_output(&mut text);
    eval(env, &instructions, context, &blocks, &mut out, AutoEscape::None)?;
    Ok(text)
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} are not supported in chat templates"))
}

/// Refuses long tags, and `*` beside anything but a name or a number: constants are
/// multiplied while the template compiles, before any guard runs.
fn check_tokens(source: &str) -> Result<(), Error> {
    let (mut in_tag, mut elifs) = (0, 0);
    let mut before: Option<Token> = None;
    for token in tokenize(source, false, syntax()?) {
        let (token, _) = token?;
        in_tag = match token {
            Token::TemplateData(_) | Token::BlockStart | Token::VariableStart => 0,
            _ => in_tag + 1,
        };
        elifs += usize::from(matches!(token, Token::Ident("elif")));
        if in_tag > TAG_TOKENS || elifs > ELIFS {
            return Err(unsupported("tags this long"));
        }
        let simple = |t: &Token| matches!(t, Token::Ident(_) | Token::Int(_) | Token::Float(_));
        let before_multiply = matches!(token, Token::Mul) && !before.as_ref().is_some_and(simple);
        let after_multiply = matches!(before, Some(Token::Mul)) && !simple(&token);
        if before_multiply || after_multiply || matches!(token, Token::Pow) {
            return Err(unsupported("repetition, powers and unpacked arguments"));
        }
        before = Some(token);
    }
    Ok(())
}

fn guarded<'a>(old: &Instructions<'a>, source: &'a str) -> Result<Instructions<'a>, Error> {
    let mut list = Vec::new();
    let mut starts = Vec::new();
    for at in 0.. {
        starts.push(list.len() as u32);
        let Some(instruction) = old.get(at) else { break };
        let line = old.get_line(at).unwrap_or_default() as u16;
        let next = old.get(at + 1);
        for instruction in guard(instruction, next)? {
            list.push((instruction, line));
        }
    }
    let mut new = Instructions::new("chat template", source);
    for (mut instruction, line) in list {
        if let Some(target) = jump_target(&mut instruction) {
            *target = starts[*target as usize];
        }
        new.add_with_line(instruction, line);
    }
    if !assignments_are_guarded(&new) {
        return Err(unsupported("assignments to a part of a value"));
    }
    Ok(new)
}

fn jump_target<'a>(instruction: &'a mut Instruction) -> Option<&'a mut u32> {
    match instruction {
        Instruction::Jump(to)
        | Instruction::JumpIfFalse(to)
        | Instruction::JumpIfFalseOrPop(to)
        | Instruction::JumpIfTrueOrPop(to)
        | Instruction::Iterate(to)
        | Instruction::BuildMacro(_, to, _) => Some(to),
        _ => None,
    }
}

/// The instructions that take the place of one. An instruction that is not known to be
/// harmless is refused.
fn guard<'a>(
    instruction: &Instruction<'a>,
    next: Option<&Instruction<'a>>,
) -> Result<Vec<Instruction<'a>>, Error> {
    use Instruction as I;
    let call = |name, args| I::CallFunction(name, Some(args));
    let same = instruction.clone();
    Ok(match instruction {
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::Mul => vec![call(MULTIPLY, 2)],
        I::Add
        | I::StringConcat
        | I::Slice
        | I::BuildMap(_)
        | I::BuildList(Some(_))
        | I::BuildTuple(Some(_))
        | I::ApplyFilter(_, Some(_), _)
        | I::CallFunction(_, Some(_))
        | I::CallMethod(_, Some(_))
        | I::CallObject(Some(_)) => vec![same, call(CHARGE, 1)],
        // Assignment to a namespace: value, then the namespace's name, then SetAttr.
        I::Lookup(_) if matches!(next, Some(I::SetAttr(_))) => vec![call(CHARGE_DATA, 1), same],
        I::SetAttr(_) => vec![same],
        I::PushLoop(flags) if flags & RECURSIVE_LOOP != 0 => return Err(unsupported("recursive loops")),
        I::Sub | I::Div | I::IntDiv | I::Rem | I::Neg | I::Not => vec![same],
        I::Eq | I::Ne | I::Gt | I::Gte | I::Lt | I::Lte | I::In | I::CompareAndPreserve(_) => vec![same],
        I::StoreLocal(_) | I::Lookup(_) | I::GetAttr(_) | I::GetItem | I::LoadConst(_) => vec![same],
        I::BuildKwargs(_) | I::BuildList(None) | I::UnpackList(_) => vec![same],
        I::PerformTest(_, Some(_), _) | I::Emit | I::DupTop | I::DiscardTop | I::Swap => vec![same],
        I::PushLoop(_) | I::PushWith | I::Iterate(_) | I::PushDidNotIterate => vec![same],
        I::PopFrame | I::PopLoopFrame | I::Jump(_) | I::JumpIfFalse(_) => vec![same],
        I::JumpIfFalseOrPop(_) | I::JumpIfTrueOrPop(_) | I::BeginCapture(_) | I::EndCapture => vec![same],
        I::BuildMacro(..) | I::Return | I::IsUndefined | I::Enclose(_) | I::GetClosure => vec![same],
        _ => return Err(unsupported("includes, blocks, recursion and unpacked arguments")),
    })
}

/// Whether each assignment to a namespace follows its name and the guard of its value.
fn assignments_are_guarded(instructions: &Instructions) -> bool {
    let at = |i| instructions.get(i);
    (0..).map_while(|i| at(i).map(|x| (i, x))).all(|(i, x)| match x {
        Instruction::SetAttr(_) => {
            i >= 2
                && matches!(at(i - 1), Some(Instruction::Lookup(_)))
                && matches!(at(i - 2), Some(Instruction::CallFunction(name, _)) if *name == CHARGE_DATA)
        }
        _ => true,
    })
}
