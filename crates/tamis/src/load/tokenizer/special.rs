//! Which tokens begin and end a text, from the small files beside `tokenizer.json`.

use serde_json::Value;

use crate::error::{Error, Result};

/// Most end tokens of a model.
const ENDS: usize = 64;

/// Begin id and all end ids, in the order in which the files are trusted. Ids come from
/// `configs` (`bos_token_id`, `eos_token_id`: a number or a list), spellings from
/// `tokenizer_config.json` (`bos_token`, `eos_token`: a string or an object).
pub(super) fn from_configs(
    tokenizer: &tokenizers::Tokenizer,
    configs: &[&Value],
    names: &Value,
) -> Result<(Option<u32>, Vec<u32>)> {
    let named = |key: &str| {
        let token = names.get(key).and_then(spelling)?;
        tokenizer.token_to_id(token)
    };
    let listed = |key: &str| configs.iter().filter_map(|c| c.get(key)).flat_map(ids).collect::<Vec<u32>>();
    let bos = named("bos_token").or_else(|| listed("bos_token_id").first().copied());
    let mut eos = Vec::new();
    if listed("eos_token_id").len() > ENDS {
        return Err(Error::bad_data(format!("more than {ENDS} end tokens (eos_token_id)"))
            .next("take generation_config.json and config.json from the model's page again"));
    }
    for id in listed("eos_token_id").into_iter().chain(named("eos_token")) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    Ok((bos, eos))
}

/// The text of a token that is written as a string or as an object with `content`.
pub(crate) fn spelling(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value.as_array() {
        Some(list) => list.iter().filter_map(id).collect(),
        None => id(value).into_iter().collect(),
    }
}
