//! Chat templates: compiling and rendering a short conversation.
#![no_main]

use tamis::load::{ChatTemplate, GenerationPrompt, Message};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(source.into(), "<s>".into(), "</s>".into()) else { return };
    let message = |role: &str| Message { role: role.into(), content: "abc".into() };
    let _ = template.at(0).render(&[message("user"), message("assistant")], GenerationPrompt::Open);
});
