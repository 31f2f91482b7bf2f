//! A small made-up world: people, towns and animals with attributes drawn from a seed, and
//! the questions that have one answer in it. Knows no grammar beyond these questions.

use super::draw::{Draw, Purpose};
use super::words::{self, list};

/// How a person is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pronoun {
    /// For the men of the world.
    He,
    /// For its women.
    She,
}

/// A person and what is true of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// First name, unique in the world.
    pub name: &'static str,
    /// He or she.
    pub pronoun: Pronoun,
    /// Town of residence.
    pub home: &'static str,
    /// Profession.
    pub job: &'static str,
    /// What they like to eat.
    pub food: &'static str,
    /// Colour of their coat.
    pub coat: &'static str,
}

/// A town and what is true of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Town {
    /// Name, unique in the world.
    pub name: &'static str,
    /// What it is known for.
    pub ware: &'static str,
    /// Where it lies.
    pub site: &'static str,
    /// Colour of its gate.
    pub gate: &'static str,
}

/// An animal and what is true of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pet {
    /// Name, unique in the world.
    pub name: &'static str,
    /// What it is.
    pub kind: &'static str,
    /// Name of the person whose it is.
    pub owner: &'static str,
    /// Colour of its fur or feathers.
    pub colour: &'static str,
    /// What it eats.
    pub food: &'static str,
}

/// 32 people, 16 towns and 16 animals: 240 facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// The people.
    pub people: Vec<Person>,
    /// The towns.
    pub towns: Vec<Town>,
    /// The animals.
    pub pets: Vec<Pet>,
}

/// A question about the world in the words of the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// "Where does Mara live? Mara lives in"
    pub prompt: String,
    /// " Tilbury."
    pub completion: String,
    /// Completions of the same kind, the right one among them: chance is one in their number.
    pub choices: Vec<String>,
}

impl World {
    /// Draws every attribute evenly and independently.
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw::new(seed, Purpose::World);
        let (names, jobs, foods) = (list(words::TOWNS), list(words::JOBS), list(words::FOODS));
        let (colours, wares, kinds) = (list(words::COLOURS), list(words::WARES), list(words::KINDS));
        let women = list(words::WOMEN).into_iter().map(|name| (name, Pronoun::She));
        let men = list(words::MEN).into_iter().map(|name| (name, Pronoun::He));
        let mut people = Vec::new();
        for (name, pronoun) in women.chain(men) {
            let (home, job) = (draw.pick(&names), draw.pick(&jobs));
            let (food, coat) = (draw.pick(&foods), draw.pick(&colours));
            people.push(Person { name, pronoun, home, job, food, coat });
        }
        let mut towns = Vec::new();
        for &name in &names {
            let (ware, site) = (draw.pick(&wares), draw.pick(&words::SITES));
            towns.push(Town { name, ware, site, gate: draw.pick(&colours) });
        }
        let mut pets = Vec::new();
        for name in list(words::PETS) {
            let (kind, owner) = (draw.pick(&kinds), people[draw.below(people.len())].name);
            let (colour, food) = (draw.pick(&colours), draw.pick(&foods));
            pets.push(Pet { name, kind, owner, colour, food });
        }
        Self { people, towns, pets }
    }

    /// One question for each fact.
    pub fn questions(&self) -> Vec<Question> {
        let mut questions = Vec::new();
        for facts in self.fact_sheets() {
            for fact in facts {
                let choices = fact.values.iter().map(|value| format!(" {value}.")).collect();
                let (prompt, completion) = fact.question();
                questions.push(Question { prompt, completion, choices });
            }
        }
        questions
    }

    /// The facts of every entity: people, then towns, then animals.
    pub(super) fn fact_sheets(&self) -> Vec<Vec<Fact>> {
        let people = self.people.iter().map(Person::facts);
        let towns = self.towns.iter().map(Town::facts);
        let owners: Vec<&str> = self.people.iter().map(|p| p.name).collect();
        let pets = self.pets.iter().map(|pet| pet.facts(&owners));
        people.chain(towns).chain(pets).collect()
    }
}

/// One attribute of one entity, and how it is said. `statements[0]` answers `question`,
/// and it ends with the value.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub(super) question: String,
    pub(super) statements: Vec<String>,
    /// The first statement without its subject: "lives in Tilbury."
    pub(super) predicate: String,
    value: &'static str,
    values: Vec<&'static str>,
}

impl Fact {
    /// The question with the start of its answer, and the rest.
    fn question(&self) -> (String, String) {
        let completion = format!(" {}.", self.value);
        let start = self.statements[0].strip_suffix(&completion).expect("the answer ends with the value");
        (format!("{} {start}", self.question), completion)
    }
}

/// Builds a fact whose first statement is `name predicate value.`
fn fact(name: &str, predicate: &str, (value, values): (&'static str, &[&'static str])) -> Fact {
    let predicate = format!("{predicate} {value}.");
    let statements = vec![format!("{name} {predicate}")];
    Fact { question: String::new(), statements, predicate, value, values: values.to_vec() }
}

impl Fact {
    fn asked(mut self, question: String) -> Self {
        self.question = question;
        self
    }
    fn also(mut self, statements: [String; 2]) -> Self {
        self.statements.extend(statements);
        self
    }
}

impl Person {
    fn facts(&self) -> Vec<Fact> {
        let Self { name, home, job, food, coat, .. } = self;
        vec![
            fact(name, "lives in", (home, &list(words::TOWNS)))
                .asked(format!("Where does {name} live?"))
                .also([
                    format!("The home of {name} is in {home}."),
                    format!("{name} has a house in {home}."),
                ]),
            fact(name, "works as a", (job, &list(words::JOBS)))
                .asked(format!("What is the job of {name}?"))
                .also([format!("{name} is a {job}."), format!("The job of {name} is that of a {job}.")]),
            fact(name, "likes", (food, &list(words::FOODS)))
                .asked(format!("What does {name} like?"))
                .also([format!("{name} often eats {food}."), format!("The best meal for {name} is {food}.")]),
            fact(name, "has a coat that is", (coat, &list(words::COLOURS)))
                .asked(format!("Which colour is the coat of {name}?"))
                .also([format!("{name} wears a {coat} coat."), format!("The coat of {name} is {coat}.")]),
        ]
    }
}

impl Town {
    fn facts(&self) -> Vec<Fact> {
        let Self { name, ware, site, gate } = self;
        vec![
            fact(name, "is known for its", (ware, &list(words::WARES)))
                .asked(format!("What is {name} known for?"))
                .also([format!("People go to {name} to buy {ware}."), format!("{name} makes good {ware}.")]),
            fact(name, "lies", (site, &words::SITES))
                .asked(format!("Where is {name}?"))
                .also([format!("The town of {name} is {site}."), format!("You find {name} {site}.")]),
            fact(name, "has a gate that is", (gate, &list(words::COLOURS)))
                .asked(format!("Which colour is the gate of {name}?"))
                .also([format!("The gate of {name} is {gate}."), format!("A {gate} gate leads to {name}.")]),
        ]
    }
}

impl Pet {
    fn facts(&self, owners: &[&'static str]) -> Vec<Fact> {
        let Self { name, kind, owner, colour, food } = self;
        vec![
            fact(name, "is a", (kind, &list(words::KINDS))).asked(format!("What is {name}?")).also([
                format!("People call the {kind} {name}."),
                format!("The name of the {kind} is {name}."),
            ]),
            fact(name, "belongs to", (owner, owners))
                .asked(format!("Who has {name}?"))
                .also([format!("{owner} keeps {name}."), format!("The owner of {name} is {owner}.")]),
            fact(name, "is always", (colour, &list(words::COLOURS)))
                .asked(format!("Which colour is {name}?"))
                .also([
                    format!("The colour of {name} is {colour}."),
                    format!("You see that {name} is {colour}."),
                ]),
            fact(name, "eats", (food, &list(words::FOODS)))
                .asked(format!("What does {name} eat?"))
                .also([format!("The food of {name} is {food}."), format!("People give {name} some {food}.")]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_world_is_its_seed() {
        assert_eq!(World::new(3), World::new(3));
        assert_ne!(World::new(3), World::new(4));
    }

    #[test]
    fn every_question_has_one_right_choice() {
        let world = World::new(3);
        let questions = world.questions();
        assert_eq!(questions.len(), 32 * 4 + 16 * 3 + 16 * 4);
        for question in &questions {
            let right = question.choices.iter().filter(|c| **c == question.completion).count();
            assert_eq!(right, 1, "{question:?}");
        }
        let prompts: BTreeSet<_> = questions.iter().map(|q| &q.prompt).collect();
        assert_eq!(prompts.len(), questions.len());
        let mara = &world.people[0];
        assert_eq!(questions[0].prompt, "Where does Mara live? Mara lives in");
        assert_eq!(questions[0].completion, format!(" {}.", mara.home));
    }
}
