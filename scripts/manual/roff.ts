/**
 * Manual pages as man(7) wants them, from sections of text. Text is Markdown as far as `code`,
 * *emphasis* and [words](links) go; what roff would take for something else is escaped here and nowhere
 * else. ASCII only, so that every roff reads it.
 */

export interface Page {
  readonly name: string;
  readonly section: 1 | 8;
  /** What it is, in half a line. */
  readonly summary: string;
  /** Command lines; words in <> are for the reader to fill in. */
  readonly synopsis: readonly string[];
  readonly sections: readonly Section[];
}

export interface Section {
  readonly title: string;
  readonly blocks: readonly Block[];
}

export type Block =
  /** A paragraph. */
  | string
  /** Words, each with what there is to say of it. */
  | { readonly terms: readonly (readonly [string, string])[] }
  /** Lines that stay as they are. */
  | { readonly lines: readonly string[] }
  | { readonly heading: string };

/** The page's source. `version`: of the package. */
export function roffPage(page: Page, version: string): string {
  const { name, section, summary, synopsis, sections } = page;
  return [
    '.\\" Made by scripts/manual from the option tables: edit those.',
    `.TH ${name.toUpperCase()} ${section} "" "ramzswap ${version}" "ramzswap"`,
    '.SH NAME',
    // Exactly so: indexers of manual pages look for it.
    `${escaped(name)} \\- ${inline(summary)}`,
    '.SH SYNOPSIS',
    ...synopsis.flatMap((line, i) => [...(i === 0 ? [] : ['.br']), commandLine(line)]),
    ...sections.flatMap(({ title, blocks }) => [
      `.SH ${escaped(title.toUpperCase())}`,
      ...blocks.flatMap(blockLines),
    ]),
    '',
  ].join('\n');
}

function blockLines(block: Block): string[] {
  if (typeof block === 'string') return ['.PP', guarded(inline(block))];
  if ('heading' in block) return [`.SS ${escaped(block.heading)}`];
  if ('lines' in block) {
    const lines = block.lines.map((line) => guarded(escaped(line, true)));
    return ['.PP', '.RS 4', '.EX', ...lines, '.EE', '.RE'];
  }
  return block.terms.flatMap(([term, text]) => ['.TP', commandLine(term), guarded(inline(text))]);
}

/** Bold as it is typed, with the words in <> in italics and brackets in plain. */
export function commandLine(text: string): string {
  const parts = text.split(/(<[^>]+>|[[\]|]|\.\.\.|, | )/).filter((part) => part !== '');
  const words = parts.map((part) => {
    if (/^<[^>]+>$/.test(part)) return `\\fI${escaped(part.slice(1, -1).toUpperCase(), true)}\\fR`;
    if (/^([[\]| ]|, |\.\.\.)$/.test(part)) return escaped(part);
    return `\\fB${escaped(part, true)}\\fR`;
  });
  return guarded(words.join(''));
}

/** Text with its marks: `code` in bold, *emphasis* in italics, of links the words. */
export function inline(text: string): string {
  return text
    .split(/(`[^`]+`|\*[^*\s][^*]*\*|\[[^\]]+\]\([^)]+\))/)
    .map((part) => {
      if (/^`.+`$/s.test(part)) return `\\fB${escaped(part.slice(1, -1), true)}\\fR`;
      if (/^\*.+\*$/s.test(part)) return `\\fI${escaped(part.slice(1, -1))}\\fR`;
      const link = /^\[([^\]]+)\]\(.+\)$/s.exec(part);
      return escaped(link === null ? part : link[1]!);
    })
    .join('');
}

const ESCAPES: Readonly<Record<string, string>> = {
  '\\': '\\e',
  '…': '...',
  '×': '\\(mu',
  '–': '\\(en',
  µ: '\\(mc',
};
/** Characters that are typed as they are, where roff would print finer ones. */
const TYPED: Readonly<Record<string, string>> = {
  '-': '\\-',
  "'": '\\(aq',
  '`': '\\(ga',
  '^': '\\(ha',
  '~': '\\(ti',
  '"': '\\(dq',
};

/** `isTyped`: code and command lines, whose words are not divided. Throws for what has no escape yet. */
function escaped(text: string, isTyped = false): string {
  if (isTyped) return text.replace(/[^ ]+/g, (word) => `\\%${escapedWord(word, TYPED)}`);
  return escapedWord(text, {});
}

function escapedWord(text: string, more: Readonly<Record<string, string>>): string {
  return [...text]
    .map((character) => {
      const sequence = ESCAPES[character] ?? more[character];
      if (sequence !== undefined) return sequence;
      if (/^[\n -~]$/.test(character)) return character;
      throw new Error(`manual: no escape for '${character}' in: ${text}`);
    })
    .join('');
}

/** A line that begins as a request does is text all the same. */
function guarded(text: string): string {
  return text
    .split('\n')
    .map((line) => (/^[.']/.test(line) ? `\\&${line}` : line))
    .join('\n');
}
