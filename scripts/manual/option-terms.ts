/** Options of the tables as a manual page, a README and a reader's eye want them. */

import type { ControlOptionSpec } from '../../src/control/control-options.ts';

type Specs = Readonly<Record<string, ControlOptionSpec>>;

/** Each with all there is to say of it: `-b`, `--backing_swap <path>`. */
export function optionTerms(specs: Specs): [string, string][] {
  return Object.entries(specs).map(([name, spec]) => [flags(name, spec), description(spec)]);
}

/** A table for a README, in Markdown. */
export function optionTable(specs: Specs): string {
  const rows = Object.entries(specs).map(([name, spec]) => {
    const argument = spec.argument?.replace(/<(.*)>/, (_, word: string) => word.toUpperCase());
    const short = spec.short === undefined ? '' : `\`-${spec.short}\`, `;
    const long = argument === undefined ? `\`--${name}\`` : `\`--${name} ${argument}\``;
    const cells = [`${short}${long}`, meaning(spec), spec.fallback ?? ''];
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  });
  return ['| option | meaning | default |', '|---|---|---|', ...rows].join('\n');
}

function flags(name: string, { short, argument }: ControlOptionSpec): string {
  const value = argument === undefined ? '' : ` ${argument}`;
  return short === undefined ? `--${name}${value}` : `-${short}, --${name}${value}`;
}

function description(spec: ControlOptionSpec): string {
  const fallback = spec.fallback === undefined ? '' : ` Default: ${spec.fallback}.`;
  return `${sentence(meaning(spec))}${fallback}`;
}

/** What it is, and what it may be where the words do not say that. */
function meaning({ help, details, choices, min, max }: ControlOptionSpec): string {
  const text = details ?? help;
  const missing = choices?.filter((choice) => !new RegExp(`\\b${choice}\\b`).test(text)) ?? [];
  if (missing.length > 0) {
    return `${text} (${choices!.map((choice) => `\`${choice}\``).join(', ')})`;
  }
  // Of an fd there is no such news, and some say it in their own words.
  const isRange = min !== undefined && max !== undefined && max < 2 ** 20;
  return isRange && !text.includes(`${max}`) ? `${text} (${min} to ${max})` : text;
}

function sentence(text: string): string {
  return `${text[0]!.toUpperCase()}${text.slice(1)}.`;
}
