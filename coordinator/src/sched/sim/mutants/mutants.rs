//! Faults that a developer could make, and the simulator must find.

/// A fault: one expression of the scheduler replaced by another one.
pub(super) struct Mutant {
    /// The test's name: what goes wrong.
    pub(super) name: &'static str,
    /// The file that has the expression, once.
    pub(super) file: &'static str,
    pub(super) right: &'static str,
    pub(super) wrong: &'static str,
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "blocks_are_freed_in_the_plan_of_the_last_row",
        file: "planning.rs",
        right: "planned.sent.push(SentRow { key, samples, logprobs })",
        wrong: "planned.sent.push(SentRow { key, samples, logprobs });
            if sequence.complete() {
                for (table, pool) in sequence.tables.iter_mut().zip(&mut self.pools) {
                    table.release(pool, &mut self.prefixes);
                    table.cached = usize::MAX;
                }
            }",
    },
    Mutant {
        name: "a_decode_row_starts_one_position_late",
        file: "planning.rs",
        right: "to_u32(start)",
        wrong: "to_u32(start + usize::from(sequence.decoding))",
    },
    Mutant {
        name: "a_token_sampled_past_the_end_token_is_delivered",
        file: "absorb.rs",
        right: "sequence.is_end(token)",
        wrong: "sequence.is_end(token) && sequence.num_in_flight == 0",
    },
    Mutant {
        name: "a_result_goes_to_the_sequence_that_has_the_place_now",
        file: "sequence.rs",
        right: "self.entries[key.index].as_mut().filter(|sequence| sequence.age == key.age)",
        wrong: "self.entries[key.index].as_mut()",
    },
    Mutant {
        name: "a_preempted_sequence_loses_the_token_in_flight",
        file: "absorb.rs",
        right: "sequence.tokens.push(token)",
        wrong: "if sequence.slot.is_none() { return None; } sequence.tokens.push(token)",
    },
    Mutant {
        name: "a_window_frees_the_block_that_it_touches",
        file: "prefix.rs",
        right: "group.first_block(sequence.num_computed)",
        wrong: "group.first_block(sequence.num_computed) + 1",
    },
    Mutant {
        name: "a_cancelled_request_gives_its_blocks_back_twice",
        file: "mod.rs",
        right: "self.end(key)",
        wrong: "for (table, pool) in self.sequences[key].tables.iter().zip(&mut self.pools) {
                table.live().iter().for_each(|id| pool.release(*id, pool::Worth::High));
            }
            self.end(key)",
    },
    Mutant {
        name: "rows_are_the_same_whenever_their_number_is",
        file: "rows.rs",
        right: "self.last_rows.iter().zip(&rows).all(|(last, row)| last.continues(row))",
        wrong: "true",
    },
    Mutant {
        name: "an_answer_has_one_token_more_than_max_tokens",
        file: "admission.rs",
        right: "self.config.len_max(&request)?",
        wrong: "self.config.len_max(&request)? + 1",
    },
    Mutant {
        name: "a_chunk_in_the_middle_of_a_prompt_skips_a_token",
        file: "planning.rs",
        right: "self.counters.prompts_split += 1",
        wrong: "self.counters.prompts_split += 1; sequence.num_computed += 1",
    },
    Mutant {
        name: "a_hit_does_not_count_as_an_owner",
        file: "prefix.rs",
        right: "table.live().iter().for_each(|id| pool.share(*id))",
        wrong: "",
    },
    Mutant {
        name: "a_block_is_shared_in_the_plan_that_writes_it",
        file: "prefix.rs",
        right: "builder.filled.extend_from_slice(&prefixes[cached..full])",
        wrong: "builder.filled.extend_from_slice(&prefixes[cached..full]); self.publish_blocks(key)",
    },
    Mutant {
        name: "requests_share_blocks_across_salts",
        file: "prefix.rs",
        right: "Parent::Salt(Arc::clone(&sequence.salt))",
        wrong: "Parent::Salt(Arc::default())",
    },
    Mutant {
        name: "a_block_is_found_whatever_came_before_it",
        file: "prefix.rs",
        right: "prefixes.last().copied().map_or_else(|| root.clone(), Parent::Prefix)",
        wrong: "root.clone()",
    },
    Mutant {
        name: "half_of_the_tokens_of_a_block_are_compared",
        file: "prefix.rs",
        right: "&sequence.tokens[start..start + block_tokens]",
        wrong: "&sequence.tokens[start..start + block_tokens / 2]",
    },
    Mutant {
        name: "a_hit_covers_the_last_known_token",
        file: "prefix.rs",
        right: "self.sequences[key].tokens.len() - 1",
        wrong: "self.sequences[key].tokens.len()",
    },
    Mutant {
        name: "tenants_share_blocks",
        file: "sequence.rs",
        right: "request.tenant",
        wrong: "Default::default()",
    },
    Mutant {
        name: "texts_that_clients_chose_as_salts_are_not_looked_at",
        file: "sequence.rs",
        right: "request.cache_salt",
        wrong: "None",
    },
    Mutant {
        name: "a_miss_is_told_one_token_late",
        file: "miss.rs",
        right: "unknown * block_tokens + common",
        wrong: "unknown * block_tokens + common + 1",
    },
    Mutant {
        name: "what_is_a_block_too_short_depends_on_the_last_token",
        file: "miss.rs",
        right: "sequence.tokens.len() <= hit.tokens + unit",
        wrong: "sequence.tokens.len() < hit.tokens + unit",
    },
    Mutant {
        name: "a_text_that_never_ran_was_evicted",
        file: "miss.rs",
        right: "is_cached(prefix) || self.prefixes.was_evicted(prefix)",
        wrong: "true",
    },
    Mutant {
        name: "every_miss_of_a_salted_request_is_for_its_salt",
        file: "miss.rs",
        right: "self.prefixes.common_with_sibling(prefixes[unknown], is_cached)",
        wrong: "self.prefixes.common_with_sibling(prefixes[unknown], |_| false)",
    },
];
