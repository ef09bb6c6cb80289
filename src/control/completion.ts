/**
 * Completion of rzscontrol's command line for bash, written from its option tables: printed by
 * `rzscontrol --completion bash`, and made by the build (dist/completion/rzscontrol).
 */

import {
  CONTROL_COMMANDS,
  CONTROL_OPTIONS,
  type ControlOptionSpec,
  TOP_OPTIONS,
} from './control-options.ts';

type Specs = Readonly<Record<string, ControlOptionSpec>>;

const BOTH: Specs = { ...CONTROL_OPTIONS, ...TOP_OPTIONS };

/** The script, to be sourced or put where bash-completion looks for it. */
export function bashCompletion(): string {
  return `# bash completion for rzscontrol, made from its options: rzscontrol --completion bash

_rzscontrol() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]}
  local i word before= command= control_path=()
  COMPREPLY=()
  # "--option=value" comes as three words.
  if [[ $cur == = ]]; then
    cur=
  elif [[ $prev == = ]]; then
    prev=\${COMP_WORDS[COMP_CWORD - 2]}
  fi

  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    [[ $word == = ]] && continue
    case $before in
    --control-path) control_path=(--control-path "$word") ;;
    ${patternOf(BOTH, ({ argument }) => argument !== undefined)}) ;;
    *) [[ $word == -* ]] || command=\${command:-$word} ;;
    esac
    before=$word
  done

  case $prev in
${valueCases()}
  esac

  if [[ $cur == -* ]]; then
    if [[ $command == top ]]; then
      _rzscontrol_words ${longOptions({ ...TOP_OPTIONS, ...OF_TOP_TOO })}
    else
      _rzscontrol_words ${longOptions(CONTROL_OPTIONS)}
    fi
  elif [[ -z $command ]]; then
    _rzscontrol_words ${Object.keys(CONTROL_COMMANDS).join(' ')}
    _rzscontrol_devices "$1"
  fi
}

# Those that begin as what was typed.
_rzscontrol_words() {
  local word
  for word; do
    [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
  done
}

# The daemon's, or none. Names may hold what a shell would expand: they are quoted, never evaluated.
_rzscontrol_devices() {
  local name quoted
  while IFS= read -r name; do
    printf -v quoted %q "$name"
    [[ $name == "$cur"* ]] && COMPREPLY+=("$quoted")
  done < <("$1" "\${control_path[@]}" --completion devices 2>/dev/null)
}

complete -F _rzscontrol rzscontrol
`;
}

const OF_TOP_TOO: Specs = {
  'control-path': CONTROL_OPTIONS['control-path'],
  json: CONTROL_OPTIONS.json,
  help: CONTROL_OPTIONS.help,
};

/** What is offered behind an option that takes a value. */
function valueCases(): string {
  const cases: [string, string][] = [
    [
      patternOf(BOTH, ({ completes }) => completes === 'files'),
      'compopt -o filenames 2>/dev/null\n    mapfile -t COMPREPLY < <(compgen -f -- "$cur")\n    return',
    ],
    [
      patternOf(BOTH, ({ completes }) => completes === 'devices'),
      '_rzscontrol_devices "$1"\n    return',
    ],
  ];
  for (const [name, spec] of Object.entries(BOTH)) {
    if (spec.choices === undefined) continue;
    const pattern = patternOf({ [name]: spec }, () => true);
    cases.push([pattern, `_rzscontrol_words ${spec.choices.join(' ')}\n    return`]);
  }
  const isNothingKnown = ({ argument, completes, choices }: ControlOptionSpec) =>
    argument !== undefined && completes === undefined && choices === undefined;
  cases.push([patternOf(BOTH, isNothingKnown), 'return']);
  return cases.map(([pattern, body]) => `  ${pattern})\n    ${body}\n    ;;`).join('\n');
}

/** Of a case: `-b | --backing_swap | …`. */
function patternOf(specs: Specs, isWanted: (spec: ControlOptionSpec) => boolean): string {
  return Object.entries(specs)
    .filter(([, spec]) => isWanted(spec))
    .flatMap(([name, { short }]) => [...(short === undefined ? [] : [`-${short}`]), `--${name}`])
    .join(' | ');
}

function longOptions(specs: Specs): string {
  return Object.keys(specs)
    .map((name) => `--${name}`)
    .join(' ');
}
