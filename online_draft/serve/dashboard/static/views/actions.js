// What a person can decide, when, and what comes of it.

// Without a version: decisions about the whole service; with one: about that version.
export function actions(ladder, version) {
  return version === undefined ? general(ladder) : about(ladder, version);
}

function general(ladder) {
  const { champion, previous, pinned, learner_paused: paused } = ladder;
  return [
    {
      label: "Roll back", verb: "Roll back", danger: true, path: "rollback", title: "Roll back the champion?",
      consequence: `${previous} drafts for all traffic again, from memory and at once; ${champion} no longer drafts. Answers don't change, only how fast they come.`,
      disabled: !previous || !!pinned, why: pinned ? "unpin first" : "there is no former champion",
    },
    {
      label: "Pin", verb: "Pin", path: "pin", title: "Pin the champion?",
      consequence: `${champion} stays and drafts for all: no canary, promotion or rollback happens until it is unpinned. A canary waits.`,
      disabled: !champion || !!pinned, why: pinned ? "it is pinned" : "there is no champion",
    },
    {
      label: "Unpin", verb: "Unpin", path: "unpin", title: "Unpin the champion?",
      consequence: "Candidates may be tried and promoted again; one that waits begins a new canary.",
      disabled: !pinned, why: "nothing is pinned",
    },
    {
      label: "Pause learner", verb: "Pause", path: "learner/pause", title: "Pause the learner?",
      consequence: "Within a second nothing is learnt any more; what was learnt is written down, what was proposed climbs on. Serving goes on.",
      disabled: paused, why: "it is paused",
    },
    {
      label: "Resume learner", verb: "Resume", path: "learner/resume", title: "Resume the learner?",
      consequence: "It goes on where it stopped, whenever no request needs the machine.",
      disabled: !paused, why: "it isn't paused",
    },
  ];
}

function about(ladder, version) {
  const waits = ladder.candidate === version || ladder.canary === version;
  const path = `drafters/${encodeURIComponent(version)}`;
  return [
    {
      label: "Promote", verb: "Promote", path: `${path}/promote`, title: `Promote ${version}?`,
      consequence: `${version} drafts for all traffic at once${ladder.champion ? `, instead of ${ladder.champion}` : ""}. It isn't watched afterwards: nobody but you rolls it back. Answers don't change.`,
      disabled: ladder.champion === version || !!ladder.pinned,
    },
    {
      label: "Reject", verb: "Reject", danger: true, path: `${path}/reject`, title: `Reject ${version}?`,
      consequence: `${version} ${ladder.canary === version ? "stops drafting and " : ""}is no candidate any more. The learner goes on from what it knows.`,
      disabled: !waits,
    },
  ];
}
