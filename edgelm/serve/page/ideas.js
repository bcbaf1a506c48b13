// What an empty chat suggests.
const GENERAL = [
  ["Explain", "how a heat pump works, in three sentences", "Explain how a heat pump works, in three sentences."],
  ["Write", "a short, kind reminder to water the plants", "Write a short, kind reminder to water the plants."],
  ["List", "five dinners from rice, eggs and spinach", "List five dinners from rice, eggs and spinach."],
  ["Show", "a Python function that reverses a string", "Show me a Python function that reverses a string."],
];
const HOME = [
  ["Dim the bedroom lamp", "to 30 percent and lock the front door", "Dim the bedroom lamp to 30 percent and lock the front door"],
  ["Turn off", "every light in the kitchen", "Turn off every light in the kitchen"],
  ["Set the thermostat", "in the living room to 21 degrees", "Set the thermostat in the living room to 21 degrees"],
  ["Open the blinds", "in the office", "Open the blinds in the office"],
];
const STORIES = [
  ["Tell a story", "about a dog who finds a key", "Tell a story about a dog who finds a key."],
  ["Tell a story", "about a boat and the moon", "Tell a story about a boat and the moon."],
];

/** Suggestions that suit a model, by its name: {title, rest, text}. */
export function ideasFor(model) {
  const ideas = /home/i.test(model) ? HOME : /stories/i.test(model) ? STORIES : GENERAL;
  return ideas.map(([title, rest, text]) => ({ title, rest, text }));
}
