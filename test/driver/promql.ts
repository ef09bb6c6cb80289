/**
 * Which metrics a PromQL expression asks for. A tokenizer, no parser: names that are not functions,
 * words of the language, labels or durations are metrics.
 */

/** In the order in which they are tried at each place. */
const TOKEN =
  /\s+|#[^\n]*|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`|\$\w+|\$\{\w+\}|[a-zA-Z_:][\w:]*|(?:\d+(?:ms|[smhdwy]))+|0x[\da-fA-F]+|\d*\.?\d+(?:[eE][+-]?\d+)?|[=!]~|[=!<>]=|[-+*/%^=<>(){}[\],@:]/y;

const WORDS = new Set(['and', 'or', 'unless', 'bool', 'offset', 'inf', 'nan', 'start', 'end']);
/** What stands in the parentheses behind these are labels. */
const LABEL_LISTS = new Set(['by', 'without', 'on', 'ignoring', 'group_left', 'group_right']);

/** Throws where it meets what is no PromQL. */
export function promqlTokens(expression: string): string[] {
  const tokens: string[] = [];
  for (let at = 0; at < expression.length; at = TOKEN.lastIndex) {
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(expression)?.[0];
    if (token === undefined) throw new Error(`no PromQL: ${expression.slice(at)}`);
    if (!/^(\s|#)/.test(token)) tokens.push(token);
  }
  return tokens;
}

export function promqlMetrics(expression: string): string[] {
  const tokens = promqlTokens(expression);
  const metrics: string[] = [];
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at]!;
    const next = tokens[at + 1];
    if (token === '{') at = endOf(tokens, at, '}');
    else if (token === '[') at = endOf(tokens, at, ']');
    else if (LABEL_LISTS.has(token.toLowerCase())) {
      if (next === '(') at = endOf(tokens, at, ')');
    } else if (/^[a-zA-Z_:]/.test(token) && !WORDS.has(token.toLowerCase())) {
      // A function, or an aggregation whose labels come first: sum by (device) (…).
      const isCall = next === '(' || LABEL_LISTS.has(next?.toLowerCase() ?? '');
      if (!isCall) metrics.push(token);
    }
  }
  return metrics;
}

function endOf(tokens: readonly string[], from: number, closing: string): number {
  const end = tokens.indexOf(closing, from);
  if (end < 0) throw new Error(`expected ${closing} behind ${tokens.slice(0, from + 1).join(' ')}`);
  return end;
}
