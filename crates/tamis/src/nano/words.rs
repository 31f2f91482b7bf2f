//! Word lists of the synthetic corpus. Knows no grammar; [`super::grammar`] relies on three
//! properties, which the test below checks: no word twice in a list, plurals by adding "s",
//! and verb forms that differ from one another.

/// Splits a list at blanks.
pub(super) fn list(words: &'static str) -> Vec<&'static str> {
    words.split_whitespace().collect()
}

/// Nouns of what acts; they begin with a consonant, so that "a" is right.
pub(super) const CREATURES: &str = "dog cat bird horse farmer teacher sailor doctor king queen shepherd girl \
    friend rabbit duck frog beekeeper knight painter singer driver gardener hunter neighbour visitor \
    dancer soldier clown robin turtle lion tiger goat squirrel";

/// Nouns of what is acted on; they begin with a consonant.
pub(super) const THINGS: &str = "ball book cup lamp chair table hat candle letter picture basket bottle \
    blanket boat cart coin drum flower gift hammer jar kite mirror needle pot ring rope spoon stone \
    ticket button wheel bell map";

/// Nouns of places.
pub(super) const PLACES: &str = "garden house barn forest market bridge river kitchen mill field tower \
    school castle lake road shop station harbour well fence gate hill wall pond";

/// Adjectives that begin with a consonant.
pub(super) const PLAIN_ADJECTIVES: &str = "small big young tall short quiet happy sad clever brave lazy \
    kind proud strange pretty heavy light clean dirty wet dry warm cold new round little funny gentle \
    tired quick";

/// Adjectives that begin with a vowel.
pub(super) const VOWEL_ADJECTIVES: &str = "old odd ugly elegant unlucky important";

/// Verbs with an object: he *sees*, they *see*, they *saw*.
pub(super) const TRANSITIVE: &str = "sees see saw finds find found follows follow followed \
    watches watch watched carries carry carried hides hide hid brings bring brought \
    loves love loved paints paint painted draws draw drew pulls pull pulled pushes push pushed \
    touches touch touched remembers remember remembered wants want wanted hears hear heard \
    takes take took catches catch caught drops drop dropped helps help helped needs need needed \
    shows show showed washes wash washed visits visit visited holds hold held";

/// Verbs without an object, in the same three forms.
pub(super) const INTRANSITIVE: &str = "runs run ran sleeps sleep slept sings sing sang \
    dances dance danced waits wait waited laughs laugh laughed jumps jump jumped walks walk walked \
    falls fall fell rests rest rested smiles smile smiled swims swim swam shouts shout shouted \
    sits sit sat stands stand stood arrives arrive arrived";

/// Adverbs that end a sentence.
pub(super) const ADVERBS: &str = "quickly slowly quietly happily often again loudly softly gladly here";

/// Prepositions of place.
pub(super) const PREPOSITIONS: &str = "near behind beside by below";

/// First names, referred to by "she".
pub(super) const WOMEN: &str = "Mara Anna Clara Elsa Nora Ruth Vera Ida Lena Rosa Greta Hilda Julia Paula \
    Sonia Tilda";

/// First names, referred to by "he".
pub(super) const MEN: &str = "Arno Boris Carl Edgar Felix Gustav Hugo Ivan Jonas Kurt Leo Milo Otto Pavel \
    Rolf Simon";

/// Names of towns.
pub(super) const TOWNS: &str = "Tilbury Marwick Oldham Brinford Calder Dunmore Elswick Fernley Grayton \
    Harwell Kelby Linton Norwood Penrith Redmoor Stanton";

/// Names of animals that people keep.
pub(super) const PETS: &str = "Biscuit Rusty Pepper Shadow Ginger Pebble Domino Muffin Socks Patches Marigold \
    Bramble Nutmeg Pickle Clover Misty";

/// What those animals are.
pub(super) const KINDS: &str = "pony parrot hamster goose donkey lizard kitten puppy";

/// What people do for a living.
pub(super) const JOBS: &str = "baker tailor miller carpenter blacksmith fisherman potter weaver barber \
    butcher clerk nurse pilot printer judge cook";

/// What people and animals like to eat.
pub(super) const FOODS: &str = "plums bread cheese soup rice beans honey cabbage pears nuts carrots fish \
    pancakes potatoes cherries noodles";

/// Colours.
pub(super) const COLOURS: &str = "red blue green yellow white black brown grey";

/// What a town is known for.
pub(super) const WARES: &str = "clocks carpets candles ships violins pottery glass paper silk leather wool \
    salt tools dolls boots lace";

/// Where a town lies.
pub(super) const SITES: [&str; 8] = [
    "by the sea",
    "on a hill",
    "in a valley",
    "near the border",
    "on an island",
    "at the end of the railway",
    "in the mountains",
    "between two rivers",
];

/// First names of the word problems, referred to by "he"; none is also in the world.
pub(super) const COUNTING_MEN: &str = "Tom Ben Sam Max Jack Adam";

/// First names of the word problems, referred to by "she".
pub(super) const COUNTING_WOMEN: &str = "Lily Emma Kate Jane Amy Zoe";

/// What is counted.
pub(super) const COUNTED: &str = "apples stickers marbles coins shells pencils cards buttons eggs cookies \
    beads stamps";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_word_is_twice_in_its_list() {
        let lists = [
            CREATURES,
            THINGS,
            PLACES,
            PLAIN_ADJECTIVES,
            VOWEL_ADJECTIVES,
            ADVERBS,
            PREPOSITIONS,
            WOMEN,
            MEN,
            TOWNS,
            PETS,
            KINDS,
            JOBS,
            FOODS,
            COLOURS,
            WARES,
            COUNTING_MEN,
            COUNTING_WOMEN,
            COUNTED,
        ];
        for words in lists.map(list) {
            assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len(), "{words:?}");
        }
        let verbs = [list(TRANSITIVE), list(INTRANSITIVE)].concat();
        assert_eq!(verbs.len() % 3, 0);
        assert_eq!(verbs.iter().collect::<BTreeSet<_>>().len(), verbs.len(), "forms differ");
    }

    #[test]
    fn articles_and_plurals_are_regular() {
        let vowel = |word: &str| word.starts_with(['a', 'e', 'i', 'o', 'u']);
        for words in [CREATURES, THINGS, PLAIN_ADJECTIVES] {
            assert!(!list(words).into_iter().any(vowel));
        }
        assert!(list(VOWEL_ADJECTIVES).into_iter().all(vowel));
        for words in [CREATURES, THINGS].map(list) {
            assert!(!words.iter().any(|w| w.ends_with(['s', 'x', 'y', 'h'])), "{words:?}");
        }
    }
}
