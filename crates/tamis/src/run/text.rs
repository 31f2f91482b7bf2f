//! The tokenizer's incremental decoder as the text side of a generation.

use super::generate::Detokenise;
use crate::error::Result;
use crate::load::TextStream;

impl Detokenise for TextStream<'_> {
    fn push(&mut self, token: u32) -> Result<String> {
        TextStream::push(self, token)
    }
    fn finish(self: Box<Self>) -> Result<String> {
        TextStream::finish(*self)
    }
}
