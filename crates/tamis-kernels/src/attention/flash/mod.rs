//! Attention over compact keys and values (bf16, f16, int8): scores never leave the L1
//! cache. Knows how work is cut and joined; `tile` has the arithmetic, `visits` says which
//! blocks a query looks at.
//!
//! A query gathers chunk by chunk of absolute positions, each from nothing, and the chunks
//! are joined in their order. That is so for a single step and for a long prompt, whether
//! one thread takes all chunks of a tile or each chunk is a task: so the bits are the same.

mod operand;
mod record;
mod tile;
mod view;
mod visits;

use std::cell::Cell;
use std::ops::Range;

use super::blocks::Blocks;
use super::queries::{Queries, Tile};
use crate::aligned::Aligned;
use crate::isa::per_isa;
use crate::pool::{Cpu, Disjoint};

/// Rows of a task: whole register tiles, and enough that keys from memory are no matter.
const TASK_ROWS: usize = 96;

/// Tasks a thread before chunks become tasks of their own.
const TASKS_PER_THREAD: usize = 4;

thread_local! {
    /// Records of tasks.
    static RECORDS: Cell<Aligned> = const { Cell::new(Aligned::new()) };
}

/// See `attention::attend`; writes `out`, of the shape of the queries.
pub(super) fn attend(cpu: &Cpu, queries: Queries<'_>, blocks: &Blocks, out: &mut [f32]) {
    let work = Work::of(queries, blocks, Disjoint::new(out));
    if work.tiles == 0 {
        return;
    }
    let heads = queries.params.kv_heads;
    let reach = work.tile(0).reach().start..work.tile(work.tiles * heads - 1).reach().end;
    let chunks = visits::chunks(&reach);
    let threads = cpu.pool.threads();
    if threads > 1 && work.tiles * heads < TASKS_PER_THREAD * threads && chunks.len() > 1 {
        return work.by_chunks(cpu, chunks);
    }
    cpu.pool.run(work.tiles * heads, &|task| {
        // The last queries see the most keys: they go first, so that threads end together.
        let task = work.tiles * heads - 1 - task;
        let tile = work.tile(task);
        let mut records = RECORDS.take();
        let all = records.numbers(work.size);
        let chunks = visits::chunks(&tile.reach());
        work.gather(cpu, &tile, chunks, all);
        finish(cpu.isa, &work, &tile, all);
        RECORDS.set(records);
    });
}

struct Work<'a> {
    queries: Queries<'a>,
    blocks: &'a Blocks,
    out: Disjoint<'a, f32>,
    /// Rows of a tile.
    tall: usize,
    tiles: usize,
    /// Numbers of a record.
    record: usize,
    /// Numbers of a tile's records.
    size: usize,
}

impl<'a> Work<'a> {
    fn of(queries: Queries<'a>, blocks: &'a Blocks, out: Disjoint<'a, f32>) -> Self {
        // What a query may not see must be cleared, where it is not finite: one query a tile.
        let tall = if blocks.finite() { TASK_ROWS.min(queries.rows()).max(1) } else { queries.group() };
        let tiles = queries.rows().div_ceil(tall);
        let record = record::size(blocks.value_width());
        Self { queries, blocks, out, tall, tiles, record, size: tall * record }
    }

    /// Tile of a task: all heads of a tile before the next tile.
    fn tile(&self, task: usize) -> Tile<'a> {
        let heads = self.queries.params.kv_heads;
        self.queries.tile(task / heads, task % heads, self.tall)
    }

    /// Fills the records of a tile.
    fn gather(&self, cpu: &Cpu, tile: &Tile<'a>, chunks: Range<usize>, records: &mut [f32]) {
        let task = tile::Task { tile: tile.clone(), blocks: self.blocks, chunks };
        tile::gather(cpu.isa, &task, &mut records[..tile.rows.len() * self.record]);
    }

    /// Each chunk of each tile is a task; then the chunks of each tile are joined.
    fn by_chunks(&self, cpu: &Cpu, chunks: Range<usize>) {
        let tiles = self.tiles * self.queries.params.kv_heads;
        let (first, count) = (chunks.start, chunks.len());
        let mut records = RECORDS.take();
        let parts = records.numbers(tiles * count * self.size);
        let all = Disjoint::new(&mut *parts);
        // All heads of a chunk before the next: so their pages lie in memory.
        let run = (tiles * count / (TASKS_PER_THREAD * cpu.pool.threads())).clamp(1, tiles);
        cpu.pool.run((tiles * count).div_ceil(run), &|task| {
            for item in task * run..((task + 1) * run).min(tiles * count) {
                let (chunk, tile) = (item / tiles, item % tiles);
                // SAFETY: each item is of one task, and has records of its own.
                let records = unsafe { all.slice((tile * count + chunk) * self.size, self.size) };
                self.gather(cpu, &self.tile(tile), first + chunk..first + chunk + 1, records);
            }
        });
        cpu.pool.run_chunks(parts, count * self.size, &|task, parts| {
            let tile = self.tile(task);
            join(cpu.isa, self, &tile, parts);
            finish(cpu.isa, self, &tile, parts);
        });
        RECORDS.set(records.kept());
    }
}

per_isa! {
    /// Adds the records of all chunks, in order, to those of the first.
    fn join<L>(l, work: &Work<'_>, tile: &Tile<'_>, parts: &mut [f32]) {
        let (into, parts) = parts.split_at_mut(work.size);
        let used = tile.rows.len() * work.record;
        for part in parts.chunks_exact(work.size) {
            let pairs = into[..used].chunks_exact_mut(work.record).zip(part.chunks_exact(work.record));
            pairs.for_each(|(into, part)| record::join(l, into, part));
        }
    }
}

per_isa! {
    /// Writes the rows of a tile.
    fn finish<L>(l, work: &Work<'_>, tile: &Tile<'_>, records: &[f32]) {
        for (row, record) in records.chunks_exact(work.record).take(tile.rows.len()).enumerate() {
            // SAFETY: every row of every head belongs to one task.
            let out = unsafe { work.out.slice(tile.offset(row), tile.params.head_dim) };
            record::finish(l, record, out);
        }
    }
}

#[cfg(test)]
mod tests;
